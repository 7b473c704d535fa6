// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::vector<std::string> points = {"layers.*.resid_pre"};
  std::vector<int64_t> positions;
  std::string save;
};

// "*" stands for any run of characters.
bool matches(std::string_view pattern, std::string_view name) {
  const size_t star = pattern.find('*');
  if (star == pattern.npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  pattern.remove_prefix(star + 1);
  for (size_t i = star; i <= name.size(); ++i) {
    if (matches(pattern, name.substr(i))) return true;
  }
  return false;
}

std::vector<std::string> names_of(const Arguments& args, const LanguageModel& model) {
  std::vector<std::string> names;
  for (const std::string& pattern : args.points) {
    const size_t before = names.size();
    for (const PointInfo& point : model.points()) {
      const bool known = std::find(names.begin(), names.end(), point.name) != names.end();
      if (!known && matches(pattern, point.name)) names.push_back(point.name);
    }
    ELAPSE_CHECK(names.size() > before,
                 "no point of the model is \"{}\" (docs/points.md has the list)", pattern);
  }
  return names;
}

void run(const Arguments& args) {
  check_writable(args.save);
  Inspection inspection(args);
  const LanguageModel& model = inspection.model();
  const TokenLists prompts = inspection.prompts();
  const std::vector<std::string> names = names_of(args, model);
  Points points;
  for (const std::string& name : names) {
    const auto info = std::find_if(model.points().begin(), model.points().end(),
                                   [&](const PointInfo& p) { return p.name == name; });
    const bool by_token = info->axis == PointInfo::Axis::token;
    points.watch(name, {.positions = by_token ? args.positions : std::vector<int64_t>()});
  }
  Batch batch = pack(model, prompts);
  if (std::find(names.begin(), names.end(), "logits") != names.end()) batch.logit_rows = {};
  Tape tape(inspection.device(), false);
  model.forward(tape, batch, nullptr, &points);

  std::vector<NamedTensor> tensors;
  Table table({{"point", Table::Align::left},
               {"shape", Table::Align::left},
               {"mean", Table::Align::right, 4},
               {"largest", Table::Align::right, 4}});
  int64_t bytes = 0;
  for (const std::string& name : names) {
    tensors.push_back({name, to_host(inspection.device(), points.value(name))});
    const std::vector<double> values = host_values(inspection.device(), points.value(name));
    double sum = 0, most = 0;
    for (const double v : values) {
      sum += v;
      most = std::max(most, std::abs(v));
    }
    table.add_row({name, points.value(name).shape().str(),
                   sum / static_cast<double>(std::max<size_t>(1, values.size())), most});
    bytes += points.value(name).bytes();
  }
  std::string lengths;
  for (const auto& prompt : prompts)
    lengths += fmt::format("{}{}", lengths.empty() ? "" : ",", prompt.size());
  write_safetensors(args.save, tensors, {{"format", "pt"}, {"lengths", lengths}});
  const std::string what = fmt::format("{} points of {} prompts, {} bytes: {}", names.size(),
                                       prompts.size(), bytes, args.save);
  Report report("Cached values", what);
  report.table(table);
  JsonWriter json;
  json.begin_object().field("method", "cache").field("saved", args.save).field("points", names);
  finish(args, fmt::format("{}\n{}\n", table.text(), what), report, json);
}

}  // namespace

void add_inspect_cache(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      add_method(inspect, "cache", "Save the values passing named points as safetensors",
                 "cache -m mamba-130m --prompts prompts.jsonl --points 'layers.*.mixer.dt' --save "
                 "dt.safetensors",
                 *args, "Prompts, a JSON object a line: text, or tokens");
  verb->add_option("--points", args->points,
                   "Names, * standing for anything; values of (d_inner x d_state) for every token "
                   "only if they are named")
      ->delimiter(',')
      ->check(not_empty());
  verb->add_option("--positions", args->positions, "Tokens of each prompt; as a rule all")
      ->delimiter(',')
      ->check(whole_number(0));
  verb->add_option("--save", args->save, "Where the values go")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  verb->callback([args] { run(*args); });
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "apps/elapse/checks.h"
#include "apps/elapse/input.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/interpret/edit_plan.h"
#include "elapse/interpret/metrics.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::vector<std::string> points = {"layers.*.resid_pre"};
  std::vector<int64_t> positions;
  int64_t batch_tokens = 4096;
  std::string save, against, edits, reference;
};

ActivationCache read(const Arguments& args, const Inspection& inspection) {
  const LanguageModel& model = inspection.model();
  const std::vector<Prompt> prompts = inspection.noted_prompts(args.prompts);
  const CacheOptions options = {.points = args.points,
                                .where = {.positions = args.positions},
                                .batch_tokens = args.batch_tokens};
  if (args.edits.empty()) return cache_activations(model, tokens_of(prompts), options);
  const EditPlan plan(
      model, parse_edits(open_input(args.edits).read_all(), args.edits), prompts,
      args.reference.empty() ? std::vector<Prompt>() : inspection.noted_prompts(args.reference));
  return cache_activations(model, tokens_of(prompts), options, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> numbers;
    for (int64_t p = begin; p < end; ++p) numbers.push_back(p);
    return plan.edits(numbers);
  });
}

Table table_of(const ActivationCache& cache) {
  Table table({{"point", Table::Align::left},
               {"shape", Table::Align::left},
               {"mean", Table::Align::right, 4},
               {"largest", Table::Align::right, 4}});
  for (const NamedTensor& t : cache.values) {
    const Summary summary = summary_of(t.tensor);
    table.add_row({t.name, t.tensor.shape().str(), summary.mean, summary.largest});
  }
  return table;
}

Table table_of(const std::vector<CacheDifference>& differences) {
  Table table({{"point", Table::Align::left},
               {"largest", Table::Align::right, 6},
               {"mean", Table::Align::right, 6},
               {"relative", Table::Align::right, 6}});
  for (const CacheDifference& d : differences) {
    table.add_row({d.point, d.largest, d.mean, d.relative});
  }
  return table;
}

// Points with a value for each token, row by row: nothing where the two have none.
void add_heat_map(Report& report, const ActivationCache& a, const ActivationCache& b,
                  const std::vector<CacheDifference>& differences) {
  HeatMap map = {.title = "Norm of the difference in norms of the value",
                 .row_heading = "point",
                 .column_heading = "token"};
  for (const CacheDifference& d : differences) {
    if (a.at(d.point).dim(0) != a.token_rows()) continue;
    map.rows.push_back(d.point);
    const std::vector<double> row = row_differences(a, b, d.point);
    map.values.insert(map.values.end(), row.begin(), row.end());
  }
  for (int64_t c = 0; c < a.token_rows(); ++c) map.columns.push_back(fmt::format("{}", c));
  const bool fits = std::ssize(map.values) <= HeatMap::kMostCells;
  if (!map.values.empty() && fits) report.heat_map(map);
}

// Points with a value for each token: how large each token's is.
void add_sizes(Report& report, Inspection& inspection, const ActivationCache& cache) {
  HeatMap map = {.title = "Root mean square of a token's value, over the point's mean",
                 .row_heading = "point",
                 .column_heading = "token"};
  const int64_t tokens = cache.token_rows();
  for (const NamedTensor& t : cache.values) {
    if (t.tensor.dim(0) != tokens || tokens == 0) continue;
    const std::vector<double> values = host_values(inspection.device(), t.tensor);
    const auto width = values.size() / static_cast<size_t>(tokens);
    std::vector<double> sizes(static_cast<size_t>(tokens), 0.0);
    for (size_t i = 0; i < values.size(); ++i) sizes[i / width] += values[i] * values[i];
    for (double& size : sizes) size = std::sqrt(size / static_cast<double>(width));
    const double all = mean(sizes);
    map.rows.push_back(t.name);
    for (const double size : sizes) map.values.push_back(all > 0 ? size / all : size);
  }
  for (int64_t c = 0; c < tokens; ++c) map.columns.push_back(fmt::format("{}", c));
  const bool fits = std::ssize(map.values) <= HeatMap::kMostCells;
  if (!map.values.empty() && fits) report.heat_map(map);
}

void run(const Arguments& args) {
  if (!args.save.empty()) check_writable(args.save);
  Inspection inspection(args);
  const ActivationCache cache = read(args, inspection);
  if (!args.save.empty()) save_cache(args.save, cache);
  std::string what =
      fmt::format("{} points of {} prompts, {} bytes{}", cache.values.size(), cache.lengths.size(),
                  cache.bytes(), args.save.empty() ? "" : ": " + args.save);
  const Table table = table_of(cache);
  Report report("Cached values", what);
  report.table(table);
  add_sizes(report, inspection, cache);
  JsonWriter json;
  json.begin_object().field("method", "cache").field("saved", args.save).key("points");
  json.begin_array();
  for (const NamedTensor& t : cache.values) json.value(t.name);
  json.end_array();
  std::string text = fmt::format("{}\n{}\n", table.text(), what);
  if (!args.against.empty()) {
    const ActivationCache other = load_cache(args.against);
    const std::vector<CacheDifference> found = difference(other, cache);
    const Table differences = table_of(found);
    const std::string heading = fmt::format("How they differ from {}", args.against);
    report.section(heading).table(differences);
    add_heat_map(report, other, cache, found);
    text += fmt::format("\n{}:\n{}", heading, differences.text());
    json.field("against", args.against).key("differences").begin_array();
    for (const CacheDifference& d : found) {
      json.begin_object().field("point", d.point).field("largest", d.largest);
      json.field("mean", d.mean).field("relative", d.relative).end_object();
    }
    json.end_array();
  }
  finish(args, text, report, json);
}

}  // namespace

void add_inspect_cache(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(
      inspect, "cache", "Keep the values passing named points; compare those of two runs",
      "cache -m mamba-130m --prompts prompts.jsonl --points 'layers.*.mixer.dt' --save "
      "dt.safetensors\n"
      "  elapse inspect cache -m mamba-130m --prompts others.jsonl --points 'layers.*.mixer.dt' "
      "--against dt.safetensors",
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
      ->check(not_empty());
  verb->add_option("--against", args->against, "Saved values to compare these with")
      ->type_name("FILE")
      ->check(not_empty());
  CLI::Option* edits =
      verb->add_option("--edits", args->edits, "Edits the run is changed by, a JSON list")
          ->type_name("FILE")
          ->check(not_empty());
  verb->add_option("--reference", args->reference,
                   "Prompts that means and draws are taken from, a JSON object a line")
      ->type_name("FILE")
      ->needs(edits)
      ->check(not_empty());
  verb->add_option("--batch-tokens", args->batch_tokens, "Tokens in one pass")
      ->check(whole_number(1));
  verb->callback([args] { run(*args); });
}

}  // namespace elapse

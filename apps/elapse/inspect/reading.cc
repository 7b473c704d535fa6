// SPDX-License-Identifier: Apache-2.0
// The verbs that read one prompt: lens, dla, hidden-attention, dt.
#include <fmt/format.h>

#include <limits>
#include <numeric>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/interpret/direct_attribution.h"
#include "elapse/interpret/hidden_attention.h"
#include "elapse/interpret/lens.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  int64_t line = 1;
  int64_t layer = -1;
  bool absolute = false;
};

void add_line(CLI::App& verb, Arguments& args) {
  verb.add_option("--line", args.line, "Which of the prompts, counted from 1")
      ->check(whole_number(1));
}

template <class T>
const T& chosen(const std::vector<T>& list, const Arguments& args) {
  ELAPSE_CHECK(args.line <= std::ssize(list), "{}: prompt {} is asked for, but it has {}",
               args.prompts, args.line, list.size());
  return list[static_cast<size_t>(args.line - 1)];
}

// Row by row, the layers a stream enters, and the end.
std::vector<std::string> stream_names(const Inspection& inspection) {
  std::vector<std::string> names = inspection.layer_names();
  names.push_back("end");
  return names;
}

void run_lens(const Arguments& args) {
  Inspection inspection(args);
  const PromptPair pair = chosen(inspection.pairs(), args);
  const LogitLens lens = logit_lens(inspection.model(), pair.clean, pair.answer);
  Table table({{"enters layer"},
               {"says", Table::Align::left},
               {"probability"},
               {"logit difference"},
               {"rank of the answer"}});
  std::vector<double> differences, rank;
  const std::vector<std::string> rows = stream_names(inspection);
  JsonWriter json;
  json.begin_object().field("method", "logit lens").key("cells").begin_array();
  for (int64_t r = 0; r < lens.rows; ++r) {
    for (int64_t c = 0; c < lens.columns; ++c) {
      const LogitLens::Cell& cell = lens.at(r, c);
      differences.push_back(cell.logit_difference);
      rank.push_back(static_cast<double>(cell.rank));
      json.begin_object()
          .field("layer", r)
          .field("token", c)
          .field("says", cell.token)
          .field("probability", cell.probability)
          .field("logit_difference", cell.logit_difference)
          .field("rank", cell.rank)
          .end_object();
    }
    const LogitLens::Cell& last = lens.at(r, lens.columns - 1);
    table.add_row({rows[static_cast<size_t>(r)], inspection.token_name(last.token),
                   last.probability, last.logit_difference, last.rank});
  }
  json.end_array();
  const std::vector<std::string> columns = inspection.token_names(pair.clean);
  const std::string what = fmt::format(
      "What the model would say next if it stopped before a layer; logit({}) - logit({}).",
      inspection.token_name(pair.answer.right), inspection.token_name(pair.answer.wrong));
  Report report("Logit lens", what);
  report
      .heat_map({.title = "Logit difference",
                 .row_heading = "layer",
                 .column_heading = "token",
                 .rows = rows,
                 .columns = columns,
                 .values = differences})
      .heat_map({.title = "Rank of the answer (0 is best)",
                 .row_heading = "layer",
                 .column_heading = "token",
                 .rows = rows,
                 .columns = columns,
                 .values = rank,
                 .decimals = 0})
      .section("After the last token")
      .table(table);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

void run_dla(const Arguments& args) {
  Inspection inspection(args);
  const PromptPair pair = chosen(inspection.pairs(), args);
  const LanguageModel& model = inspection.model();
  std::vector<int64_t> layers(static_cast<size_t>(model.config().n_layers));
  std::iota(layers.begin(), layers.end(), 0);
  const DirectAttribution whole(model, pair.clean, pair.answer, layers);
  Table table({{"component", Table::Align::left}, {"share of the logit difference"}});
  table.add_row({"embed", whole.embed()});
  std::vector<double> cells;
  const auto progress = inspection.progress("layer");
  const int64_t n_layers = model.config().n_layers;
  std::vector<double> skips, biases;
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    const LayerAttribution parts = whole.layer(layer);
    const std::vector<double> by_token = parts.by_token();
    cells.insert(cells.end(), by_token.begin(), by_token.end());
    double skip = 0;
    for (const double s : parts.by_skip) skip += s;
    skips.push_back(skip);
    biases.push_back(parts.bias);
    cells.push_back(skip + parts.bias);
    table.add_row({fmt::format("layers.{}", layer), whole.by_layer()[static_cast<size_t>(layer)]});
    progress(layer + 1, n_layers);
  }
  inspection.end_progress();
  table.add_row({"sum", whole.total()});
  std::vector<std::string> columns = inspection.token_names(pair.clean);
  columns.push_back("D x");
  const std::string what = fmt::format(
      "Direct logit attribution of logit({}) - logit({}) = {:.4f} after the last token: what each "
      "component wrote there, and what of it each layer's state brought from each token.",
      inspection.token_name(pair.answer.right), inspection.token_name(pair.answer.wrong),
      whole.total());
  Report report("Direct logit attribution", what);
  report
      .heat_map({.title = "Share by layer and source token; last column: D x of the last token",
                 .row_heading = "layer",
                 .column_heading = "from",
                 .rows = inspection.layer_names(),
                 .columns = columns,
                 .values = cells,
                 .decimals = 4})
      .table(table);
  JsonWriter json;
  json.begin_object()
      .field("method", "direct logit attribution")
      .field("logit_difference", whole.total())
      .field("embed", whole.embed())
      .field("by_layer", whole.by_layer())
      .field("columns", columns)
      .field("by_layer_and_source", cells)
      .field("skip", skips)
      .field("bias", biases);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

void run_hidden_attention(const Arguments& args) {
  Inspection inspection(args);
  const std::vector<int64_t> tokens = chosen(inspection.prompts(), args);
  const int64_t n_layers = inspection.model().config().n_layers;
  ELAPSE_CHECK(args.layer < n_layers, "layer {}: the model has {}", args.layer, n_layers);
  const std::vector<std::string> names = inspection.token_names(tokens);
  const std::string what = fmt::format(
      "How much of what a layer's scan reads at a query comes from each token: the {} over "
      "channels "
      "of alpha.",
      args.absolute ? "mean size" : "mean");
  Report report("Hidden attention", what);
  Table table({{"layer"}, {"last token reads most from", Table::Align::left}, {"weight"}});
  JsonWriter json;
  json.begin_object().field("method", "hidden attention").field("tokens", names);
  json.key("layers").begin_array();
  const auto progress = inspection.progress("layer");
  const int64_t n = std::ssize(tokens);
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    if (args.layer >= 0 && layer != args.layer) continue;
    std::vector<double> map = HiddenAttention(inspection.model(), layer, tokens)
                                  .map(args.absolute ? HiddenAttention::Reduction::mean_absolute
                                                     : HiddenAttention::Reduction::mean);
    json.begin_object().field("layer", layer).field("alpha", map).end_object();
    const double* last = map.data() + (n - 1) * n;
    int64_t most = 0;
    for (int64_t j = 1; j < n; ++j) {
      if (std::abs(last[j]) > std::abs(last[most])) most = j;
    }
    table.add_row({layer, names[static_cast<size_t>(most)], last[most]});
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) {
        map[static_cast<size_t>(i * n + j)] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    if (n * n <= HeatMap::kMostCells) {
      report.heat_map({.title = fmt::format("Layer {}", layer),
                       .row_heading = "query",
                       .column_heading = "from",
                       .rows = names,
                       .columns = names,
                       .values = map,
                       .decimals = 4});
    }
    progress(layer + 1, n_layers);
  }
  inspection.end_progress();
  json.end_array();
  report.table(table);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

// Step sizes: a token opens the state where dt is large.
void run_dt(const Arguments& args) {
  Inspection inspection(args);
  const std::vector<int64_t> tokens = chosen(inspection.prompts(), args);
  const LanguageModel& model = inspection.model();
  const int64_t n_layers = model.config().n_layers, n = std::ssize(tokens);
  Points points;
  for (int64_t i = 0; i < n_layers; ++i) points.watch(fmt::format("layers.{}.mixer.dt", i));
  Tape tape(inspection.device(), false);
  model.forward(tape, pack(model, {tokens}), nullptr, &points);
  std::vector<double> means;
  Table table({{"layer"},
               {"mean dt", Table::Align::right, 4},
               {"largest at", Table::Align::left},
               {"its mean", Table::Align::right, 4}});
  const std::vector<std::string> names = inspection.token_names(tokens);
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    const std::vector<double> dt =
        host_values(inspection.device(), points.value(fmt::format("layers.{}.mixer.dt", layer)));
    const int64_t width = std::ssize(dt) / n;
    std::vector<double> row(static_cast<size_t>(n), 0.0);
    for (size_t i = 0; i < dt.size(); ++i) {
      row[i / static_cast<size_t>(width)] += dt[i] / static_cast<double>(width);
    }
    const auto most = std::max_element(row.begin(), row.end());
    table.add_row({layer, mean(row), names[static_cast<size_t>(most - row.begin())], *most});
    means.insert(means.end(), row.begin(), row.end());
  }
  const std::string what =
      "The step size dt, mean over channels: where it is large a token is written and what came "
      "before is forgotten.";
  Report report("Step sizes", what);
  report.heat_map({.title = "Mean dt by layer and token",
                   .row_heading = "layer",
                   .column_heading = "token",
                   .rows = inspection.layer_names(),
                   .columns = names,
                   .values = means,
                   .decimals = 4});
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    const auto begin = means.begin() + layer * n;
    report.coloured_tokens(fmt::format("Layer {}", layer), names, {begin, begin + n}, 4);
  }
  report.table(table);
  JsonWriter json;
  json.begin_object().field("method", "step sizes").field("tokens", names).field("dt", means);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

using Run = void (*)(const Arguments&);

std::shared_ptr<Arguments> add(CLI::App& inspect, const char* name, const char* about,
                               const std::string& example, const char* prompts, Run run,
                               CLI::App** verb_out = nullptr) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(inspect, name, about, example, *args, prompts);
  add_line(*verb, *args);
  verb->callback([args, run] { run(*args); });
  if (verb_out != nullptr) *verb_out = verb;
  return args;
}

}  // namespace

void add_inspect_reading(CLI::App& inspect) {
  const char* pairs = "Pairs of prompts, a JSON object a line: clean, corrupt, answer, wrong";
  const char* prompts = "Prompts, a JSON object a line: text, or tokens";
  add(inspect, "lens", "Logit lens: what the model would say after each layer",
      "lens -m mamba-130m --prompts pairs.jsonl --out out/lens", pairs, run_lens);
  add(inspect, "dla", "Direct logit attribution, down to a layer's source tokens",
      "dla -m mamba-130m --prompts pairs.jsonl --out out/dla", pairs, run_dla);
  CLI::App* verb = nullptr;
  const auto args =
      add(inspect, "hidden-attention", "A layer's scan as attention between tokens",
          "hidden-attention -m mamba-130m --prompts prompts.jsonl --out out/attention", prompts,
          run_hidden_attention, &verb);
  verb->add_option("--layer", args->layer, "One layer; -1: all")->check(whole_number(-1));
  verb->add_flag("--absolute", args->absolute, "Mean of sizes over channels, not mean");
  add(inspect, "dt", "Step sizes by layer and token",
      "dt -m mamba-130m --prompts prompts.jsonl --out out/dt", prompts, run_dt);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "apps/elapse/inspect/one_prompt.h"

namespace elapse {
namespace {

// Step sizes: a token opens the state where dt is large.
void run(const OnePrompt& args) {
  Inspection inspection(args);
  inspection.model().config().expect_mamba("dt");
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
    table.add_row({layer, mean(row), inspection.place_name(tokens, most - row.begin()), *most});
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

}  // namespace

void add_inspect_dt(CLI::App& inspect) {
  const auto args = std::make_shared<OnePrompt>();
  CLI::App* verb = add_one_prompt_method(inspect, "dt", "Step sizes by layer and token",
                                         "dt -m mamba-130m --prompts prompts.jsonl --out out/dt",
                                         *args, kOfPrompts);
  verb->callback([args] { run(*args); });
}

}  // namespace elapse

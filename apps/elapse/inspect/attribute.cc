// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/edges.h"
#include "elapse/interpret/attribution.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  int64_t steps = 1;
  std::string point;
};

constexpr const char* kNoising =
    "To first order, how putting the corrupted prompt's values into the clean one changes the mean "
    "logit difference";

// Every layer's value of a point, token by token.
void run_point(const Arguments& args, Inspection& inspection, const AttributionTask& task,
               const std::string& opening) {
  const size_t length = task.sequences.front().size();
  for (const auto& sequence : task.sequences) {
    ELAPSE_CHECK(sequence.size() == length,
                 "{}: with --point expected prompts of one length, found {} and {} tokens",
                 args.prompts, length, sequence.size());
  }
  std::vector<double> cells;
  const auto progress = inspection.progress("layer");
  const int64_t n_layers = inspection.model().config().n_layers;
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    const std::vector<double> rows =
        point_attribution(inspection.model(), task, fmt::format("layers.{}.{}", layer, args.point));
    ELAPSE_CHECK(rows.size() == length * task.sequences.size(),
                 "point \"{}\" has no value for each token", args.point);
    for (size_t t = 0; t < length; ++t) {
      double sum = 0;
      for (size_t s = 0; s < task.sequences.size(); ++s) sum += rows[s * length + t];
      cells.push_back(sum);
    }
    progress(layer + 1, n_layers);
  }
  inspection.end_progress();
  const std::vector<std::string> columns = inspection.token_names(task.sequences.front());
  Table table({{"layer"},
               {"sum over tokens", Table::Align::right, 5},
               {"most at", Table::Align::left},
               {"its", Table::Align::right, 5}});
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    const double* row = cells.data() + layer * std::ssize(columns);
    size_t best = 0;
    double sum = 0;
    for (size_t t = 0; t < length; ++t) {
      sum += row[t];
      if (std::abs(row[t]) > std::abs(row[best])) best = t;
    }
    table.add_row({layer, sum, columns[best], row[best]});
  }
  const std::string what =
      fmt::format("{}: {} of every layer at every token.", kNoising, args.point);
  Report report("Attribution patching", what);
  report.paragraph(opening)
      .heat_map({.title = "Attributed change",
                 .row_heading = "layer",
                 .column_heading = "token",
                 .rows = inspection.layer_names(),
                 .columns = columns,
                 .values = cells,
                 .decimals = 5})
      .table(table);
  JsonWriter json;
  json.begin_object()
      .field("method", "attribution patching")
      .field("point", args.point)
      .field("layers", n_layers)
      .field("columns", columns)
      .field("change", cells);
  finish(args, fmt::format("{}\n{}\n\n{}", opening, what, table.text()), report, json);
}

void run(const Arguments& args) {
  Inspection inspection(args, /*in_float32=*/true);
  const std::vector<PromptPair> pairs = inspection.pairs();
  const AttributionTask task = {clean_of(pairs), corrupt_of(pairs), answers_of(pairs)};
  const LastLogits clean =
      last_logits(inspection.model(), pack(inspection.model(), task.sequences));
  const std::string opening = inspection.task_sentence(clean, task.answers);
  if (!args.point.empty()) return run_point(args, inspection, task, opening);
  show_edges(args, inspection,
             {.method = args.steps == 1 ? "edge attribution patching"
                                        : "edge attribution patching, integrated gradients",
              .title = "Edge attribution",
              .task = opening,
              .what = fmt::format("{}, edge by edge{}.", kNoising,
                                  args.steps == 1 ? ""
                                                  : fmt::format(", gradients at {} points between "
                                                                "the prompts' embeddings",
                                                                args.steps)),
              .values = edge_attribution(inspection.model(), task, args.steps)});
}

}  // namespace

void add_inspect_attribute(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(
      inspect, "attribute", "Attribution patching: all edges, or a point, from one pass back",
      "attribute -m mamba-130m --prompts pairs.jsonl --steps 10 --out out/attribute", *args,
      "Pairs of prompts, a JSON object a line: clean, corrupt, answer, wrong");
  CLI::Option* steps = verb->add_option("--steps", args->steps,
                                        "Points of integrated gradients; 1: the clean prompt alone")
                           ->check(whole_number(1));
  verb->add_option("--point", args->point,
                   "Instead of edges: a point below a layer, such as mixer.h or mixer.dt")
      ->check(not_empty())
      ->excludes(steps);
  verb->callback([args] { run(*args); });
}

}  // namespace elapse

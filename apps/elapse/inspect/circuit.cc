// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/edges.h"
#include "elapse/interpret/attribution.h"
#include "elapse/interpret/circuit_quality.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::string method = "acdc";
  double threshold = 1e-3;
  double enough = 0.1;
  int64_t steps = 10;
  int64_t together = 8;
};

Circuit search(const Arguments& args, Inspection& inspection, const CircuitRunner& runner,
               const std::vector<PromptPair>& pairs, const Distance& distance, double enough) {
  if (args.method == "greedy") {
    return greedy_layers(runner, distance, enough, inspection.progress("layer")).circuit;
  }
  if (args.method == "attribution") {
    const AttributionTask task = {clean_of(pairs), corrupt_of(pairs), answers_of(pairs)};
    std::vector<double> score = edge_attribution(inspection.model(), task, args.steps);
    for (double& s : score) s = std::abs(s);
    return fewest_edges(runner, distance, score, enough);
  }
  return acdc(runner, distance, args.threshold, args.together, inspection.progress("edge")).circuit;
}

Table faithfulness_table(const Faithfulness& f, const TaskScore& model, const TaskScore& circuit) {
  Table table({{"", Table::Align::left}, {"model"}, {"circuit"}});
  table.add_row({"mean logit difference", model.logit_difference, circuit.logit_difference});
  table.add_row({"mean absolute logit difference", model.absolute_logit_difference,
                 circuit.absolute_logit_difference});
  table.add_row({"accuracy", model.accuracy, circuit.accuracy});
  table.add_row({"rank of the answer", model.mean_rank, circuit.mean_rank});
  table.add_row({"gap by example: mean", NAN, f.mean_gap});
  table.add_row({"gap by example: median", NAN, f.median_gap});
  table.add_row({"gap by example: 90 % below", NAN, f.gap_90});
  table.add_row({"KL(model || circuit), nats", NAN, f.kl});
  return table;
}

void run(const Arguments& args) {
  Inspection inspection(args, /*in_float32=*/args.method == "attribution");
  const std::vector<PromptPair> pairs = inspection.pairs();
  const std::vector<Answer> answers = answers_of(pairs);
  const CircuitRunner runner(inspection.model(), clean_of(pairs), corrupt_of(pairs));
  const std::string task = inspection.task_sentence(runner.plain(), answers);
  const Distance distance = [&](const LastLogits& logits) {
    return mean(kl_divergences(runner.plain(), logits));
  };
  const double empty = distance(runner.other());
  const Circuit circuit = search(args, inspection, runner, pairs, distance, args.enough * empty);
  inspection.end_progress();

  const LastLogits logits = runner.run({circuit}).front();
  const Faithfulness f = faithfulness(runner.plain(), logits, answers);
  const TaskScore model_score = task_score(runner.plain(), answers);
  const TaskScore score = task_score(logits, answers);
  const ResidualGraph graph = inspection.graph();
  const std::string what = fmt::format(
      "{}: {} of {} edges; the others carry what their sender wrote on the corrupted prompt. KL "
      "from "
      "the model {:.4f} nats, of the empty circuit {:.4f}.",
      args.method, circuit.size(), graph.edges(), f.kl, empty);
  const Table numbers = faithfulness_table(f, model_score, score);
  Table edges({{"from", Table::Align::left}, {"to", Table::Align::left}});
  JsonWriter json;
  json.begin_object()
      .field("method", args.method)
      .field("pairs", pairs.size())
      .field("edges_of_model", graph.edges())
      .field("kl", f.kl)
      .field("kl_of_empty_circuit", empty)
      .field("logit_difference", score.logit_difference)
      .field("absolute_logit_difference", score.absolute_logit_difference)
      .field("accuracy", score.accuracy)
      .field("model_logit_difference", model_score.logit_difference)
      .field("model_accuracy", model_score.accuracy)
      .field("mean_gap", f.mean_gap)
      .field("median_gap", f.median_gap)
      .field("largest_gap", f.largest_gap)
      .key("edges")
      .begin_array();
  for (const Edge edge : circuit.edges()) {
    edges.add_row({graph.name(edge.from), graph.name(edge.to)});
    json.begin_object()
        .field("from", graph.name(edge.from))
        .field("to", graph.name(edge.to))
        .end_object();
  }
  json.end_array();
  Report report("Circuit", what);
  std::vector<double> kept;
  for (int64_t i = 0; i < graph.edges(); ++i) kept.push_back(circuit.has(graph.edge(i)) ? 1 : 0);
  report.paragraph(task)
      .table(numbers)
      .section("Its edges")
      .heat_map(edge_map(graph, "1: in the circuit", kept, 0))
      .table(edges);
  finish(args, fmt::format("{}\n{}\n\n{}\n{}", task, what, numbers.text(), edges.text()), report,
         json);
}

}  // namespace

void add_inspect_circuit(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      add_method(inspect, "circuit", "Search for the edges that do a task",
                 "circuit -m mamba-130m --prompts pairs.jsonl --method acdc --threshold 1e-3 --out "
                 "out/circuit",
                 *args, "Pairs of prompts, a JSON object a line: clean, corrupt, answer, wrong");
  verb->add_option("--method", args->method,
                   "acdc: cut edge by edge; greedy: add layer by layer; attribution: the largest "
                   "edges by integrated gradients")
      ->check(CLI::IsMember({"acdc", "greedy", "attribution"}));
  verb->add_option("--threshold", args->threshold,
                   "acdc: nats of KL that cutting an edge may cost");
  verb->add_option("--enough", args->enough,
                   "greedy, attribution: the share of the empty circuit's KL that may be left");
  verb->add_option("--steps", args->steps, "attribution: points of integrated gradients")
      ->check(whole_number(1));
  verb->add_option("--together", args->together, "acdc: edges tried in one pass")
      ->check(whole_number(1, 1024));
  verb->callback([args] { run(*args); });
}

}  // namespace elapse

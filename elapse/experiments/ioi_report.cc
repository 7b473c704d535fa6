// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "elapse/experiments/ioi.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

// GPT-2 small's, for the table (Wang et al., 2022): F, P(IO > S), F of the circuit, and with a name
// duplicated.
constexpr double kPublishedF = 3.56, kPublishedAccuracy = 0.993, kPublishedCircuitGap = 0.46;
constexpr double kPublishedIoAgain = 1.23, kPublishedIoAgainWrong = 0.234;
constexpr double kPublishedSAgain = 3.64, kPublishedSAgainWrong = 0.004;

std::string layers_text(const NodeSet& nodes) {
  std::string text;
  for (const int64_t node : nodes) text += fmt::format("{}{}", text.empty() ? "" : ", ", node - 1);
  return text.empty() ? "none" : text;
}

Table task_table(const IoiResult& r) {
  Table table({{"the task", Table::Align::left},
               {"accuracy, %", Table::Align::right, 1},
               {"F"},
               {"|F|"},
               {"P(answer)"},
               {"rank"}},
              "F: mean logit difference of the indirect object and the subject; |F|: of its size.");
  const auto add = [&](const char* name, const TaskScore& s) {
    table.add_row({name, 100 * s.accuracy, s.logit_difference, s.absolute_logit_difference,
                   s.probability, s.mean_rank});
  };
  add("held-out prompts", r.whole);
  add("  BABA", r.by_order[0]);
  add("  ABBA", r.by_order[1]);
  table.add_row({"GPT-2 small, published", 100 * kPublishedAccuracy, kPublishedF, NAN, 0.49, NAN});
  return table;
}

Table circuit_table(const IoiResult& r) {
  Table table({{"circuit", Table::Align::left},
               {"accuracy, %", Table::Align::right, 1},
               {"F"},
               {"|F(M)-F(C)|"},
               {"mean |f_M-f_C|"},
               {"KL"},
               {"incomplete by"},
               {"least change"},
               {"F empty"},
               {"|F| empty"}},
              "Incomplete by: the largest gap found between circuit and model with the same layers "
              "knocked out. Least change: what the least layer of the circuit matters. F empty: of "
              "the circuit without layers, which leaks where it is not 0.");
  const Faithfulness& e = r.edges_faithfulness;
  table.add_row({fmt::format("ACDC, {} edges", r.edges.size()), 100 * r.edges_score.accuracy,
                 r.edges_score.logit_difference, e.gap_of_means, e.mean_gap, e.kl, NAN, NAN, NAN,
                 NAN});
  for (const IoiResult::Knockout& k : r.knockouts) {
    double least = k.minimality.empty() ? NAN : k.minimality.front().change;
    for (const Minimality& m : k.minimality) least = std::min(least, m.change);
    table.add_row({fmt::format("layers {} ({})", layers_text(k.layers), k.how),
                   100 * k.score.accuracy, k.score.logit_difference, k.faithfulness.gap_of_means,
                   k.faithfulness.mean_gap, k.faithfulness.kl, k.completeness.gap(), least, k.empty,
                   k.empty_absolute});
  }
  table.add_row(
      {"GPT-2 small, published", NAN, NAN, kPublishedCircuitGap, NAN, NAN, NAN, NAN, NAN, NAN});
  return table;
}

Table adversarial_table(const IoiResult& r) {
  Table table(
      {{"prompts", Table::Align::left},
       {"F"},
       {"subject preferred, %", Table::Align::right, 1},
       {"GPT-2 small: F"},
       {"subject preferred, %", Table::Align::right, 1}},
      "Again: a sentence between the clauses names someone once more. Searched for: template, "
      "order, place, object and name changed one by one, to the model's hurt.");
  const double published[][2] = {{kPublishedF, 1 - kPublishedAccuracy},
                                 {kPublishedIoAgain, kPublishedIoAgainWrong},
                                 {kPublishedSAgain, kPublishedSAgainWrong},
                                 {NAN, NAN}};
  for (size_t i = 0; i < r.adversarial.size(); ++i) {
    const TaskScore& s = r.adversarial[i].score;
    table.add_row({r.adversarial[i].name, s.logit_difference, 100 * (1 - s.accuracy),
                   published[i][0], 100 * published[i][1]});
  }
  return table;
}

std::string opening(const IoiResult& r) {
  const std::string task = fmt::format(
      "The model prefers the indirect object in {:.1f} % of {} held-out prompts, whose "
      "pairs of names training never saw (F {:.2f}, |F| {:.2f}).",
      100 * r.whole.accuracy, IoiTask::kHeldOutPrompts, r.whole.logit_difference,
      r.whole.absolute_logit_difference);
  if (r.whole.accuracy >= kIoiAccuracyNeeded) return task;
  return task + fmt::format(" That is less than {:.0f} %, so no circuit is looked for.",
                            100 * kIoiAccuracyNeeded);
}

void write_score(JsonWriter& json, const char* name, const TaskScore& s) {
  json.key(name)
      .begin_object()
      .field("logit_difference", s.logit_difference)
      .field("absolute_logit_difference", s.absolute_logit_difference)
      .field("accuracy", s.accuracy)
      .field("probability", s.probability)
      .field("rank", s.mean_rank)
      .end_object();
}

}  // namespace

std::vector<Table> ioi_tables(const IoiResult& result) {
  std::vector<Table> tables = {task_table(result)};
  if (result.knockouts.empty()) return tables;
  tables.push_back(circuit_table(result));
  tables.push_back(adversarial_table(result));
  return tables;
}

std::string ioi_json(const IoiSettings& settings, const IoiResult& r) {
  JsonWriter json;
  json.begin_object()
      .field("experiment", "ioi")
      .field("seed", settings.seed)
      .field("steps", settings.train.steps)
      .field("parameters", r.parameters);
  write_score(json, "held_out", r.whole);
  write_score(json, "baba", r.by_order[0]);
  write_score(json, "abba", r.by_order[1]);
  const ResidualGraph graph(settings.model.n_layers);
  json.key("edges").begin_array();
  for (const Edge edge : r.edges) json.value(graph.name(edge));
  json.end_array().field("edges_kl", r.edges_faithfulness.kl);
  write_score(json, "edges_score", r.edges_score);
  json.key("layers").begin_array();
  for (const IoiResult::Knockout& k : r.knockouts) {
    json.begin_object().field("knockout", k.how).field("nodes", k.layers);
    write_score(json, "score", k.score);
    json.field("gap_of_means", k.faithfulness.gap_of_means)
        .field("mean_gap", k.faithfulness.mean_gap)
        .field("kl", k.faithfulness.kl)
        .field("incomplete_by", k.completeness.gap())
        .field("removed_for_that", k.completeness.removed)
        .field("empty_logit_difference", k.empty)
        .field("empty_absolute_logit_difference", k.empty_absolute)
        .field("empty_kl", k.empty_kl)
        .key("minimality")
        .begin_array();
    for (const Minimality& m : k.minimality) {
      json.begin_object().field("node", m.node).field("change", m.change).end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().key("adversarial").begin_array();
  for (const IoiResult::Adversarial& a : r.adversarial) {
    json.begin_object().field("name", a.name);
    write_score(json, "score", a.score);
    json.end_object();
  }
  json.end_array().field("worst", r.worst).field("losses", r.losses);
  return json.end_object().text();
}

Report ioi_report(const IoiSettings& settings, const IoiResult& r) {
  Report report("Indirect-object identification", opening(r));
  std::vector<double> steps;
  for (size_t i = 0; i < r.losses.size(); ++i) steps.push_back(static_cast<double>(i + 1));
  Plot loss("Training loss", {"step"}, {"nats", Scale::log10});
  loss.add({"loss", steps, r.losses});
  const std::vector<Table> tables = ioi_tables(r);
  report.table(tables[0]).plot(loss);
  if (r.knockouts.empty()) return report;
  const ResidualGraph graph(settings.model.n_layers);
  Table edges({{"from", Table::Align::left}, {"to", Table::Align::left}});
  for (const Edge edge : r.edges) edges.add_row({graph.name(edge.from), graph.name(edge.to)});
  std::vector<std::string> rows, columns;
  for (int64_t i = 0; i < r.patching.layers; ++i) rows.push_back(fmt::format("{}", i));
  for (int64_t i = 0; i < r.patching.columns; ++i) columns.push_back(fmt::format("{}", i));
  report.section("The circuit")
      .table(tables[1])
      .heat_map(
          {.title = "The stream of the prompt patched into its counterfactual: 1 is as the prompt",
           .row_heading = "layer",
           .column_heading = "token",
           .rows = rows,
           .columns = columns,
           .values = r.patching.score})
      .section("Edges that ACDC keeps")
      .table(edges)
      .section("Adversarial prompts")
      .table(tables[2])
      .paragraph("The prompts that the model gets most wrong, with the logit difference:")
      .preformatted(fmt::format("{}", fmt::join(r.worst, "\n")));
  report.section("The run").facts(
      {{"Model", fmt::format("Mamba, {} layers, d_model {}, {} parameters", settings.model.n_layers,
                             settings.model.d_model, r.parameters)},
       {"Training", fmt::format("{} steps of {} tokens in {:.0f} s", r.losses.size(),
                                settings.train.batch_tokens, r.training_seconds)},
       {"Inspecting", fmt::format("{:.0f} s", r.inspecting_seconds)},
       {"Seed", std::to_string(settings.seed)},
       {"Device", r.device}});
  return report;
}

}  // namespace elapse

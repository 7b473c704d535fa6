// SPDX-License-Identifier: Apache-2.0
// What the gradients experiment shows: its table, its page and its JSON.
#include <algorithm>
#include <cmath>
#include <limits>

#include "elapse/experiments/gradients.h"
#include "elapse/experiments/spread.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

constexpr double kLittle = 1e-3;  // of the first gradient: what is left of one that vanishes

std::vector<double> over_seeds(const GradientsResult& result, MixerKind mixer, Stage stage,
                               const std::function<double(const GradientReach&)>& number) {
  std::vector<double> values;
  for (const GradientReach& model : result.models) {
    if (model.mixer == mixer && model.stage == stage) values.push_back(number(model));
  }
  return values;
}

Plot stage_plot(const GradientsSettings& s, const GradientsResult& result, Stage stage) {
  Plot plot(fmt::format(
                "Gradient of the answer's loss to the state that the last k tokens start from: {}",
                name_of(stage)),
            {"k, tokens"}, {"norm, against that at k = 1", Scale::log10});
  for (const MixerKind mixer : s.mixers) {
    Plot::Series series = {std::string(title_of(mixer)), {}, {}};
    for (int64_t k = 1; k <= s.length; ++k) {
      const Spread spread = spread_of(
          over_seeds(result, mixer, stage, [&](const GradientReach& m) { return m.share(k); }));
      series.x.push_back(static_cast<double>(k));
      series.y.push_back(spread.median);
      series.lo.push_back(spread.least);
      series.hi.push_back(spread.largest);
    }
    plot.add(std::move(series));
  }
  return plot;
}

// After how many tokens a thousandth is left, over seeds: the median, and of several the least and
// the largest.
std::string reach_text(const GradientsResult& result, MixerKind mixer, Stage stage) {
  std::vector<double> tokens = over_seeds(result, mixer, stage, [](const GradientReach& m) {
    const std::optional<int64_t> reach = m.reach(kLittle);
    return reach ? static_cast<double>(*reach) : std::numeric_limits<double>::infinity();
  });
  if (tokens.empty()) return "–";  // every run diverged
  const auto text = [](double t) { return std::isinf(t) ? "never" : fmt::format("{:g}", t); };
  std::sort(tokens.begin(), tokens.end());
  const size_t n = tokens.size();
  const std::string median = text((tokens[(n - 1) / 2] + tokens[n / 2]) / 2);
  if (n == 1) return median;
  return fmt::format("{} [{}, {}]", median, text(tokens.front()), text(tokens.back()));
}

std::string summary(const GradientsSettings& s, const GradientsResult& result) {
  std::vector<std::string> reaches;
  for (const MixerKind mixer : s.mixers) {
    reaches.push_back(
        fmt::format("{} {}", title_of(mixer), reach_text(result, mixer, Stage::untrained)));
  }
  return fmt::format(
      "Tokens after which a thousandth of the gradient or less is left, before training: {}.",
      fmt::join(reaches, ", "));
}

}  // namespace

Table gradients_table(const GradientsSettings& settings, const GradientsResult& result) {
  std::vector<Table::Column> columns = {{"model", Table::Align::left},
                                        {"training", Table::Align::left},
                                        {"accuracy, %"},
                                        {"a thousandth left after"}};
  std::vector<int64_t> distances;
  for (int64_t k = 4; k < settings.length; k *= 4) distances.push_back(k);
  for (const int64_t k : distances) columns.push_back({fmt::format("k = {}", k)});
  Table table(
      columns,
      fmt::format("Norm of the gradient of the answer's loss to the whole state that the last k "
                  "tokens start from, against that at k = 1: medians over {} sequences of "
                  "{} tokens.",
                  settings.sequences, settings.length));
  for (const MixerKind mixer : settings.mixers) {
    for (const Stage stage : kStages) {
      const auto numbers = [&](const std::function<double(const GradientReach&)>& number) {
        return over_seeds(result, mixer, stage, number);
      };
      std::vector<Table::Cell> row = {
          std::string(title_of(mixer)), std::string(name_of(stage)),
          spread_text(numbers([](const auto& m) { return m.accuracy; }), 1),
          reach_text(result, mixer, stage)};
      for (const int64_t k : distances) {
        const Spread share = spread_of(numbers([&](const auto& m) { return m.share(k); }));
        row.emplace_back(fmt::format("{:.1e}", share.median));
      }
      table.add_row(std::move(row));
    }
  }
  return table;
}

Report gradients_report(const GradientsSettings& settings, const GradientsResult& result) {
  Report report("How far back gradients reach", summary(settings, result));
  report.section("Before and after training");
  for (const Stage stage : kStages) report.plot(stage_plot(settings, result, stage));
  report.table(gradients_table(settings, result));
  report.section("What is measured")
      .paragraph(
          "The loss is that of one answer, at the last token of a sequence of the induction-heads "
          "task. Its gradient is taken with respect to everything that the model's layers remember "
          "before the last k tokens, all later effects included. Where it falls with k by "
          "the same factor a token, what stood further back has no say in what the weights learn: "
          "it vanishes. Trained on short sequences first, a model has seen what to look for before "
          "it has to look far.")
      .section("Training")
      .table(runs_table(result.training))
      .facts(training_facts(result.training));
  return report;
}

std::string gradients_json(const GradientsSettings& settings, const GradientsResult& result) {
  JsonWriter json;
  json.begin_object().field("experiment", "gradients").key("rows").begin_array();
  for (const GradientReach& m : result.models) {
    json.begin_object().field("mixer", name_of(m.mixer)).field("training", name_of(m.stage));
    json.field("seed", m.seed).field("accuracy", m.accuracy);
    json.key("reach");
    if (const std::optional<int64_t> reach = m.reach(kLittle)) json.value(*reach);
    else json.null();
    json.field("norms", m.norms).end_object();
  }
  return json.end_array()
      .field("length", settings.length)
      .field("sequences", settings.sequences)
      .field("steps", settings.direct.steps)
      .field("seconds", result.training.seconds())
      .end_object()
      .text();
}

}  // namespace elapse

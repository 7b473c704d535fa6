// SPDX-License-Identifier: Apache-2.0
// What the scaling experiment shows: its tables, its page.
#include <algorithm>
#include <cmath>

#include "elapse/experiments/power_law.h"
#include "elapse/experiments/scaling.h"
#include "elapse/experiments/spread.h"

namespace elapse {
namespace {

struct Family {
  MixerKind mixer;
  std::vector<double> losses, least, largest;  // (sizes): over seeds; the first the median
  PowerLaw law;
};

std::vector<Family> families(const ScalingSettings& s, const ScalingResult& result) {
  std::vector<Family> list;
  for (size_t m = 0; m < s.mixers.size(); ++m) {
    Family family = {s.mixers[m], {}, {}, {}, {}};
    for (size_t size = 0; size < s.sizes.size(); ++size) {
      const ComparedRuns& runs = result.comparison.models[size * s.mixers.size() + m];
      const Spread spread = spread_of(runs.over_seeds(held_out_loss));
      family.losses.push_back(spread.median);
      family.least.push_back(spread.least);
      family.largest.push_back(spread.largest);
    }
    family.law = fitted(result.operations, family.losses);
    list.push_back(std::move(family));
  }
  return list;
}

Plot plot_of(const ScalingSettings& s, const ScalingResult& result) {
  Plot plot("Held-out loss against training operations; dashed: fitted",
            {"floating-point operations of the training", Scale::log10},
            {"held-out loss, nats a byte", Scale::log10});
  const std::vector<Family> all = families(s, result);
  for (const Family& f : all) {
    plot.add({std::string(title_of(f.mixer)), result.operations, f.losses, Plot::Style::marked_line,
              f.least, f.largest});
  }
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<double> fit;
    for (const double operations : result.operations) fit.push_back(all[i].law(operations));
    plot.add({.name = fmt::format("{}, fitted", title_of(all[i].mixer)),
              .x = result.operations,
              .y = fit,
              .style = Plot::Style::dashed,
              .belongs_to = i});
  }
  return plot;
}

Table fits_table(const ScalingSettings& s, const ScalingResult& result) {
  Table table({{"model", Table::Align::left},
               {"exponent", Table::Align::right, 4},
               {"loss at the largest, fitted", Table::Align::right, 4},
               {"measured", Table::Align::right, 4}},
              "loss = a operations^-exponent, by least squares of the logarithms.");
  for (const Family& f : families(s, result)) {
    table.add_row({std::string(title_of(f.mixer)), -f.law.exponent, f.law(result.operations.back()),
                   f.losses.back()});
  }
  return table;
}

Table models_table(const ScalingSettings& s, const ScalingResult& result) {
  Table table({{"operations", Table::Align::left},
               {"model", Table::Align::left},
               {"layers"},
               {"d_model"},
               {"parameters"},
               {"tokens"}},
              "The models and what each was trained on.");
  for (size_t i = 0; i < result.comparison.models.size(); ++i) {
    const ComparedModel& m = result.comparison.models[i].what;
    table.add_row({fmt::format("{:.2e}", result.operations[i / s.mixers.size()]), m.row,
                   m.model.n_layers, m.model.d_model, m.model.parameter_count(),
                   m.train.steps * m.train.batch_tokens});
  }
  return table;
}

}  // namespace

std::string scaling_verdict(const ScalingSettings& settings, const ScalingResult& result) {
  std::vector<Family> order = families(settings, result);
  const auto last = std::partition(order.begin(), order.end(),
                                   [](const Family& f) { return std::isfinite(f.losses.back()); });
  std::sort(order.begin(), last,
            [](const Family& a, const Family& b) { return a.losses.back() < b.losses.back(); });
  std::vector<std::string> names;
  for (const Family& f : order) {
    const double loss = f.losses.back();
    names.push_back(std::isfinite(loss) ? fmt::format("{} {:.3f}", title_of(f.mixer), loss)
                                        : fmt::format("{} diverged", title_of(f.mixer)));
  }
  return fmt::format("At the most operations, {:.1e}, held-out losses are: {}.",
                     result.operations.back(), fmt::join(names, ", "));
}

std::string unlike_published(const ScalingSettings& settings, const ScalingResult& result) {
  return fmt::format(
      "Not the published curves (Gu and Dao, 2023, Figure 4), which span 10^19 to 10^21 operations "
      "on the Pile, with 20 tokens a parameter: {} sizes of d_model {} to {} within a factor of "
      "{:.0f} in operations, {} tokens a parameter of Mamba, one learning rate for all, {} seed{}, "
      "{} bytes of text.",
      settings.sizes.size(), settings.sizes.front().d_model, settings.sizes.back().d_model,
      result.operations.back() / result.operations.front(), settings.tokens_per_parameter,
      settings.seeds.count, settings.seeds.count == 1 ? "" : "s", settings.text.size());
}

std::vector<Table> scaling_tables(const ScalingSettings& settings, const ScalingResult& result) {
  return {comparison_table(result.comparison, "held-out loss, nats a byte",
                           "Columns: floating-point operations of the training.", held_out_loss, 4),
          fits_table(settings, result)};
}

Report scaling_report(const ScalingSettings& settings, const ScalingResult& result) {
  Report report("Loss against training operations", scaling_verdict(settings, result));
  report.section("Result").plot(plot_of(settings, result));
  for (const Table& table : scaling_tables(settings, result)) report.table(table);
  report.paragraph(unlike_published(settings, result));
  report.paragraph(
      "Published, Mamba follows Transformer++ closely, and both are ahead of Hyena, RWKV, RetNet, "
      "H3++ and a plain Transformer. Models this small say how they learn the letters and words of "
      "one text; which of two near curves lies below can turn at other sizes, learning rates or "
      "texts.");
  report.section("Models").table(models_table(settings, result));
  report.section("Training")
      .plot(loss_curves(result.comparison, result.comparison.models.back().what.column))
      .table(runs_table(result.comparison))
      .facts(training_facts(result.comparison));
  return report;
}

}  // namespace elapse

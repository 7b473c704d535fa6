// SPDX-License-Identifier: Apache-2.0
// What the experiment on superposition shows: its tables and its page.
#include <algorithm>
#include <cmath>
#include <map>

#include "elapse/experiments/superposition.h"
#include "elapse/interpret/metrics.h"

namespace elapse {
namespace {

using Result = SuperpositionResult;
using Reconstruction = Result::Reconstruction;
using Computation = Result::Computation;
using Values = std::vector<double>;

constexpr double kPentagonAngle = 72, kPentagonDimensionality = 2.0 / 5;

template <class Run, class Number>
Values over_seeds(const Result::Instance<Run>& instance, Number&& number) {
  Values values;
  for (const Run& run : instance.runs) values.push_back(static_cast<double>(number(run)));
  return values;
}

// The median, and the range where there are several seeds.
std::string spread(const Values& values, int decimals) {
  const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
  const double middle = quantile(values, 0.5);
  if (values.size() == 1) return fmt::format("{:.{}f}", middle, decimals);
  return fmt::format("{0:.{3}f} ({1:.{3}f} to {2:.{3}f})", middle, *lo, *hi, decimals);
}

std::string shapes(const Result::Instance<Reconstruction>& instance) {
  std::map<std::string, int64_t> counts;
  for (const Reconstruction& run : instance.runs) {
    ++counts[shape_of(around_the_circle(run.W, instance.task.features()))];
  }
  std::string text;
  for (const auto& [shape, count] : counts) {
    if (!text.empty()) text += ", ";
    text += instance.runs.size() == 1 ? shape : fmt::format("{}: {}", shape, count);
  }
  return text;
}

std::string probability_text(double p) { return fmt::format("{:.3g}", p); }

Table plane_table(const Result& r) {
  std::vector<Table::Column> columns = {{"probability"}, {"loss"}, {"kept apart"}};
  for (int64_t i = 0; i < r.plane.front().task.features(); ++i) {
    columns.push_back({fmt::format("|W_{}|", i)});
  }
  columns.push_back({"shape", Table::Align::left});
  Table table(columns,
              "Five features in a plane, I_i = 0.9^i. Kept apart: the loss of the best model "
              "without superposition, derived. Published: an orthogonal pair where features are "
              "dense, then antipodal pairs, a pentagon where they are sparse. Norms are medians "
              "over seeds.");
  for (const auto& instance : r.plane) {
    std::vector<Table::Cell> cells = {
        probability_text(instance.task.probability),
        spread(over_seeds(instance, [](const auto& run) { return run.loss; }), 4),
        fmt::format("{:.4f}", loss_without_superposition(instance.task))};
    for (size_t i = 0; i < instance.task.importance.size(); ++i) {
      cells.emplace_back(quantile(
          over_seeds(instance, [i](const auto& run) { return run.geometry.norm[i]; }), 0.5));
    }
    cells.push_back(shapes(instance));
    table.add_row(std::move(cells));
  }
  return table;
}

// The first seed's pentagon, feature by feature around the circle.
Table pentagon_table(const Result& r) {
  const auto& instance = r.pentagon.front();
  const Reconstruction& run = instance.runs.front();
  Table table({{"feature", Table::Align::left},
               {"norm"},
               {"norm / mean norm"},
               {"degrees to the next", Table::Align::right, 2},
               {"D"}},
              fmt::format("Equal importance, probability {}: around the circle. Shapes over seeds: "
                          "{}.",
                          probability_text(instance.task.probability), shapes(instance)));
  const std::vector<PlaneVector> vectors = around_the_circle(run.W, instance.task.features());
  Values norms;
  for (const PlaneVector& v : vectors) norms.push_back(v.norm);
  for (const PlaneVector& v : vectors) {
    table.add_row({std::to_string(v.feature), v.norm, v.norm / mean(norms), v.to_next,
                   run.geometry.dimensionality[static_cast<size_t>(v.feature)]});
  }
  table.add_row({"regular pentagon, derived", NAN, 1.0, kPentagonAngle, kPentagonDimensionality});
  return table;
}

int64_t with_dimensionality(const FeatureGeometry& g, double lo, double hi) {
  return std::count_if(g.dimensionality.begin(), g.dimensionality.end(),
                       [&](double d) { return d >= lo && d <= hi; });
}

double superposition_of_represented(const FeatureGeometry& g) {  // its mean
  Values shared;
  for (size_t i = 0; i < g.norm.size(); ++i) {
    if (g.norm[i] >= kRepresented) shared.push_back(g.superposition[i]);
  }
  return mean(shared);
}

Table sweep_table(const Result::Reconstructions& instances, const std::string& caption) {
  Table table({{"1 / (1 - S)"},
               {"loss / kept apart"},
               {"represented"},
               {"m / |W|^2"},
               {"D about 1"},
               {"D about 1/2"},
               {"their superposition"}},
              caption);
  for (const auto& instance : instances) {
    const auto cell = [&](int decimals, auto&& number) {
      return spread(over_seeds(instance, number), decimals);
    };
    const double apart = loss_without_superposition(instance.task);
    table.add_row(
        {fmt::format("{:.1f}", 1 / instance.task.probability),
         cell(3, [&](const auto& run) { return run.loss / apart; }),
         cell(0, [](const auto& run) { return represented(run.geometry); }),
         cell(3, [](const auto& run) { return run.geometry.dimensions_per_feature; }),
         cell(0, [](const auto& run) { return with_dimensionality(run.geometry, 0.9, 1.1); }),
         cell(0, [](const auto& run) { return with_dimensionality(run.geometry, 0.45, 0.55); }),
         cell(3, [](const auto& run) { return superposition_of_represented(run.geometry); })});
  }
  return table;
}

double weighted_mean_square(const ToyTask& task) {  // of the targets
  double sum = 0;
  for (const double importance : task.importance) sum += importance * task.probability / 3;
  return sum;
}

Table absolute_table(const SuperpositionSettings& s, const Result& r) {
  Table table(
      {{"1 / (1 - S)"},
       {"error left, %"},
       {"kept apart, %"},
       {"computed by error"},
       {"by accuracy"},
       {"right where on, %"},
       {"right of all, %"},
       {"always 0: right of all, %"}},
      fmt::format("|x| of {} features by {} neurons. Error left: of the targets' mean square, both "
                  "weighted by importance. Kept apart: {} features exactly, of the others their "
                  "means. Computed by error: features with at most 10 % of it left; by accuracy: "
                  "with at least 90 % of the answers within {} where they are on. Right: mean over "
                  "features.",
                  s.absolute.features, s.absolute.hidden, s.absolute.hidden / 2, s.epsilon));
  for (const auto& instance : r.absolute) {
    const auto cell = [&](int decimals, auto&& number) {
      return spread(over_seeds(instance, number), decimals);
    };
    const double all = weighted_mean_square(instance.task), p = instance.task.probability;
    table.add_row({fmt::format("{:.1f}", 1 / p),
                   cell(2, [&](const auto& run) { return 100 * run.loss / all; }),
                   fmt::format("{:.2f}", 100 * loss_without_superposition(instance.task) / all),
                   cell(0, [](const auto& run) { return computed_by_error(run); }),
                   cell(0, [](const auto& run) { return computed_by_accuracy(run); }),
                   cell(1, [](const auto& run) { return 100 * mean(run.right_on); }),
                   cell(1, [](const auto& run) { return 100 * mean(run.right); }),
                   fmt::format("{:.1f}", 100 * (1 - p * (1 - s.epsilon)))});
  }
  return table;
}

VectorPanels plane_panels(const Result& r) {
  VectorPanels panels = {.title =
                             "The columns of W: how five features share a plane, by the "
                             "probability that one is on (the first seed's)"};
  const auto add = [&](const Result::Instance<Reconstruction>& instance, const char* more) {
    VectorPanels::Panel panel = {probability_text(instance.task.probability) + more, {}};
    const Values& W = instance.runs.front().W;
    const size_t features = instance.task.importance.size();
    for (size_t i = 0; i < features; ++i) panel.vectors.emplace_back(W[i], W[features + i]);
    panels.panels.push_back(std::move(panel));
  };
  for (const auto& instance : r.plane) add(instance, "");
  for (const auto& instance : r.pentagon) add(instance, ", equal importance");
  return panels;
}

template <class Run>
Values sparsities(const std::vector<Result::Instance<Run>>& instances) {
  Values x;
  for (const auto& instance : instances) x.push_back(1 / instance.task.probability);
  return x;
}

// A number of each instance: the median over seeds, in a band of their range.
template <class Run, class Number>
Plot::Series series(const std::string& name, const std::vector<Result::Instance<Run>>& instances,
                    Number&& number) {
  Plot::Series s = {name, sparsities(instances), {}, Plot::Style::marked_line};
  for (const auto& instance : instances) {
    const Values values = over_seeds(instance, number);
    const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
    s.y.push_back(quantile(values, 0.5));
    s.lo.push_back(*lo);
    s.hi.push_back(*hi);
  }
  return s;
}

Plot dimensions_plot(const Result& r) {
  Plot plot("Dimensions a feature, m / |W|^2", {"1 / (1 - S)", Scale::log10},
            {.label = "dimensions", .lo = 0});
  const auto number = [](const Reconstruction& run) { return run.geometry.dimensions_per_feature; };
  plot.add(series("equal importance", r.uniform, number));
  plot.add(series("falling importance", r.sweep, number));
  const Values x = sparsities(r.uniform);
  plot.add({"published: it sticks at 1", x, Values(x.size(), 1.0), Plot::Style::dashed});
  plot.add({"and at 1/2", x, Values(x.size(), 0.5), Plot::Style::dashed});
  return plot;
}

Plot dimensionality_plot(const Result& r) {
  Plot plot("Dimensionality of each feature, equal importance (the first seed's)",
            {"1 / (1 - S)", Scale::log10}, {.label = "D_i", .lo = 0, .hi = 1.05});
  Plot::Series features = {"a feature", {}, {}, Plot::Style::markers};
  for (const auto& instance : r.uniform) {
    for (const double d : instance.runs.front().geometry.dimensionality) {
      features.x.push_back(1 / instance.task.probability);
      features.y.push_back(d);
    }
  }
  plot.add(std::move(features));
  const Values x = sparsities(r.uniform);
  plot.add({"an antipodal pair, 1/2", x, Values(x.size(), 0.5), Plot::Style::dashed});
  plot.add({"a pentagon, 2/5", x, Values(x.size(), 0.4), Plot::Style::dashed});
  return plot;
}

std::vector<std::string> numbered(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

// A number of every feature at every sparsity, of the first seed.
template <class Numbers>
HeatMap feature_map(const std::string& title, const Result::Reconstructions& instances,
                    Numbers&& numbers) {
  HeatMap map = {.title = title, .row_heading = "1 / (1 - S)", .column_heading = "feature"};
  map.columns = numbered(instances.front().task.features());
  for (const auto& instance : instances) {
    map.rows.push_back(fmt::format("{:.1f}", 1 / instance.task.probability));
    const Values& values = numbers(instance.runs.front());
    map.values.insert(map.values.end(), values.begin(), values.end());
  }
  return map;
}

HeatMap gram_map(const Result::Instance<Reconstruction>& instance) {
  const int64_t features = instance.task.features(), shown = std::min<int64_t>(40, features);
  HeatMap map = {.title = fmt::format("W^T W at 1 / (1 - S) = {:.1f}, {} most important features",
                                      1 / instance.task.probability, shown),
                 .row_heading = "feature",
                 .column_heading = "feature",
                 .rows = numbered(shown),
                 .columns = numbered(shown),
                 .decimals = 2};
  const auto begin = instance.runs.front().geometry.gram.begin();
  for (int64_t i = 0; i < shown; ++i) {
    map.values.insert(map.values.end(), begin + i * features, begin + i * features + shown);
  }
  return map;
}

Plot counts_plot(const SuperpositionSettings& s, const Result& r) {
  Plot plot("Features that count as computed", {"1 / (1 - S)", Scale::log10},
            {.label = "features", .lo = 0});
  plot.add(series("at most 10 % of the squared error left", r.absolute, computed_by_error));
  plot.add(series(fmt::format("at least 90 % within {} where on", s.epsilon), r.absolute,
                  computed_by_accuracy));
  const Values x = sparsities(r.absolute);
  plot.add({"two neurons a feature", x,
            Values(x.size(), static_cast<double>(s.absolute.hidden / 2)), Plot::Style::dashed});
  return plot;
}

Plot feature_plot(const Result::Instance<Computation>& instance) {
  Plot plot(fmt::format("Each feature at 1 / (1 - S) = {:.1f}", 1 / instance.task.probability),
            {"feature, the most important first"}, {.label = "share", .lo = 0, .hi = 1.05});
  Values x, explained;
  for (const double left : instance.runs.front().error) {
    x.push_back(static_cast<double>(x.size()));
    explained.push_back(1 - left);
  }
  plot.add({"of the mean square explained", x, explained, Plot::Style::marked_line});
  plot.add({"right where on", x, instance.runs.front().right_on, Plot::Style::marked_line});
  plot.add({"right of all", x, instance.runs.front().right, Plot::Style::dashed});
  return plot;
}

Report::Facts facts(const SuperpositionSettings& s, const Result& r) {
  const auto part = [](const SuperpositionSettings::Part& p) {
    return fmt::format(
        "{} features in {} dimensions, {} sparsities, {} steps of {} examples, "
        "learning rate {}",
        p.features, p.hidden, p.probabilities.size(), p.training.steps, p.training.batch,
        p.training.schedule.peak_lr);
  };
  return {{"Plane", part(s.plane)},
          {"Sweep", part(s.sweep)},
          {"Absolute value", part(s.absolute) + " times the root of the probability"},
          {"Measured on", fmt::format("{} held-out examples", s.held_out)},
          {"Seeds", fmt::format("{} to {}", s.seed, s.seed + static_cast<uint64_t>(s.seeds) - 1)},
          {"Device", r.device},
          {"Time", fmt::format("{:.0f} s", r.seconds)}};
}

}  // namespace

std::vector<Table> superposition_tables(const SuperpositionSettings& settings, const Result& r) {
  return {plane_table(r), pentagon_table(r),
          sweep_table(r.sweep, fmt::format("{} features in {} dimensions, importance from 1 to "
                                           "0.01.",
                                           settings.sweep.features, settings.sweep.hidden)),
          sweep_table(r.uniform,
                      "The same with equal importance. Published: m / |W|^2 sticks at 1 "
                      "and at 1/2."),
          absolute_table(settings, r)};
}

Report superposition_report(const SuperpositionSettings& settings, const Result& r) {
  Report report("Toy models of superposition",
                fmt::format("Five features in a plane, equally important and on once in {:.0f} "
                            "times, end as: {}.",
                            1 / r.pentagon.front().task.probability, shapes(r.pentagon.front())));
  const std::vector<Table> tables = superposition_tables(settings, r);
  report.paragraph(settings.unlike_published());
  report.section("Five features in a plane")
      .vectors(plane_panels(r))
      .table(tables[0])
      .table(tables[1]);
  report.section("Sparsity and dimensions")
      .plot(dimensions_plot(r))
      .plot(dimensionality_plot(r))
      .table(tables[2])
      .table(tables[3]);
  report.section("Which features have a vector, and which share it")
      .heat_map(feature_map(
          "|W_i|, falling importance", r.sweep,
          [](const auto& run) -> auto& { return run.geometry.norm; }))
      .heat_map(feature_map(
          "Superposition, the sum over j of (hat W_i . W_j)^2", r.sweep,
          [](const auto& run) -> auto& { return run.geometry.superposition; }))
      .heat_map(feature_map(
          "b", r.sweep, [](const auto& run) -> auto& { return run.b; }))
      .heat_map(gram_map(r.sweep[r.sweep.size() / 2]))
      .heat_map(gram_map(r.sweep.back()));
  report.section("Computing |x| in superposition")
      .paragraph(
          "Squared error counts a feature as computed when its large values come out about "
          "right; accuracy asks that each answer does, and where most targets are 0, that "
          "is best asked where the feature is on.")
      .plot(counts_plot(settings, r))
      .table(tables[4])
      .plot(feature_plot(r.absolute[r.absolute.size() / 2]))
      .plot(feature_plot(r.absolute.back()));
  report.section("The run").facts(facts(settings, r));
  return report;
}

}  // namespace elapse

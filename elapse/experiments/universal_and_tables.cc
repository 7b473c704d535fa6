// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/universal_and_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace elapse {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr auto kLeft = Table::Align::left;

// Worst-class errors measured before elapse had this experiment, with 3 inputs on and the best of
// p = .02, .04, .08, ...; the same for 64 to 512 inputs.
struct Before {
  int64_t d;
  const char* p;
  const char* error;
};
constexpr Before kBefore[] = {
    {1024, ".08", ".15 to .17"}, {4096, ".04", ".07 to .08"}, {16384, ".02", ".040 to .043"}};

const char* measured_before(const UniversalAndSettings::Construction& s, int64_t d) {
  for (const Before& before : kBefore) {
    if (before.d == d && s.ones == 3) return before.error;
  }
  return "–";
}

std::vector<double> over_seeds(const UniversalAndResult& result, const FigureOfSeed& figure) {
  std::vector<double> values;
  for (const UniversalAndResult::OfSeed& run : result.seeds) values.push_back(figure(run));
  return values;
}

Table::Cell cell(const UniversalAndResult& result, int decimals, const FigureOfSeed& figure) {
  return spread_text(over_seeds(result, figure), decimals);
}

Table construction_table(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  const auto& s = settings.construction;
  Table table(
      {{"d"},
       {"d0"},
       {"best p"},
       {"published p"},
       {"empty, %"},
       {"both on"},
       {"law"},
       {"one on"},
       {"law"},
       {"neither"},
       {"law"},
       {"worst class"},
       {"before"}},
      fmt::format("The construction, {} inputs on: mean error of AND over every pair that shares "
                  "neurons, on {} inputs. The worst class counts pairs that share none, which read "
                  "0. Best p: of {} values, with at most {:g} % of pairs empty. Published p: ln^2 "
                  "d0 / sqrt(d). Before: the worst class as measured independently of elapse.",
                  s.ones, s.inputs, s.p_sqrt_d.size(), 100 * s.empty_allowed));
  for (const int64_t d : s.d) {
    for (const int64_t d0 : s.d0) {
      const auto of_best = [&](auto figure) {
        return FigureOfSeed([&s, d0, d, figure](const UniversalAndResult::OfSeed& run) {
          const auto* const best = run.best(d0, d, s.empty_allowed);
          return best ? figure(*best) : kNone;
        });
      };
      const double log = std::log(static_cast<double>(d0));
      std::vector<Table::Cell> row = {d, d0};
      const double p = spread_of(result, of_best([](const auto& c) { return c.p; })).median;
      row.push_back(std::isfinite(p) ? Table::Cell(fmt::format("{:.4f}", p)) : Table::Cell(kNone));
      row.push_back(fmt::format("{:.2f}", log * log / std::sqrt(static_cast<double>(d))));
      row.push_back(
          cell(result, 2, of_best([](const auto& c) { return 100 * c.errors.empty_share(); })));
      for (const int on : {kBoth, kOne, kNeither}) {
        const auto c = static_cast<size_t>(on);
        row.push_back(
            cell(result, 4, of_best([c](const auto& b) { return b.errors.and_[c].mean(); })));
        row.push_back(std::isfinite(p)
                          ? Table::Cell(fmt::format("{:.4f}", and_error_law(s.ones, p)[c]))
                          : Table::Cell(kNone));
      }
      row.push_back(cell(result, 4, of_best([](const auto& c) { return c.errors.worst_class(); })));
      row.push_back(measured_before(s, d));
      table.add_row(std::move(row));
    }
  }
  return table;
}

Table scaling_table(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  const auto& s = settings.construction;
  std::vector<Table::Column> columns = {{"d0"}};
  for (size_t i = 1; i < s.d.size(); ++i) {
    columns.push_back({fmt::format("{} / {}", s.d[i - 1], s.d[i])});
  }
  columns.push_back({"slope"});
  columns.push_back({"XOR / AND"});
  Table table(columns,
              "How the worst class's error falls with d: ratios, and the slope of its logarithm by "
              "that of d. By the law sqrt(d'/d) and -0.5. XOR / AND: mean errors where one is on, "
              "at the largest d; 2 in size, as XOR is read as x_i + x_j - 2 AND.");
  for (const int64_t d0 : s.d0) {
    std::vector<Table::Cell> row = {d0};
    const auto worst = [&](const UniversalAndResult::OfSeed& run, int64_t d) {
      const auto* const best = run.best(d0, d, s.empty_allowed);
      return best ? best->errors.worst_class() : kNone;
    };
    for (size_t i = 1; i < s.d.size(); ++i) {
      row.push_back(cell(
          result, 3, [&](const auto& run) { return worst(run, s.d[i - 1]) / worst(run, s.d[i]); }));
    }
    row.push_back(cell(result, 3, [&](const auto& run) { return run.slope(d0, s.empty_allowed); }));
    row.push_back(cell(result, 3, [&](const auto& run) {
      const auto* const best = run.best(d0, s.d.back(), s.empty_allowed);
      return best ? best->errors.xor_[kOne].mean() / best->errors.and_[kOne].mean() : kNone;
    }));
    table.add_row(std::move(row));
  }
  return table;
}

std::string width_text(int64_t d) {
  return d == 0 ? "" : d < 0 ? "without end" : fmt::format("{}", d);
}

Table readout_table(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  const ReadoutSettings& s = settings.readouts;
  Table table(
      {{"layer", kLeft},
       {"d"},
       {"both on"},
       {"one on"},
       {"neither"},
       {"AND"},
       {"AND within, %"},
       {"XOR"},
       {"XOR within, %"},
       {"lots"}},
      fmt::format(
          "Linear read-outs by least squares from a layer drawn at random (d0 {}, {} inputs on, {} "
          "pairs, {} + {} + {} inputs of a pair to fit with both, one and neither on): mean "
          "squared error on other inputs, of AND by class and on average of the classes, of XOR on "
          "average. Within: errors of at most {:g}. Lots: AND read by a fit to labels drawn by "
          "lot.",
          s.d0, s.ones, s.pairs, s.train[kBoth], s.train[kOne], s.train[kNeither], kPairTolerance));
  for (size_t r = 0; r < result.seeds.front().readouts.size(); ++r) {
    const ReadoutErrors& first = result.seeds.front().readouts[r];
    const auto figure = [&](int decimals, auto of) {
      return cell(result, decimals,
                  [r, of](const UniversalAndResult::OfSeed& run) { return of(run.readouts[r]); });
    };
    std::vector<Table::Cell> row = {first.layer, width_text(first.d)};
    for (const size_t c : {kBoth, kOne, kNeither}) {
      row.push_back(figure(4, [c](const ReadoutErrors& e) { return e.and_[c].mean_square(); }));
    }
    row.push_back(figure(4, [](const auto& e) { return balanced_mean_square(e.and_); }));
    row.push_back(figure(1, [](const auto& e) { return 100 * balanced_within(e.and_); }));
    row.push_back(figure(4, [](const auto& e) { return balanced_mean_square(e.xor_); }));
    row.push_back(figure(1, [](const auto& e) { return 100 * balanced_within(e.xor_); }));
    row.push_back(figure(4, [](const auto& e) { return balanced_mean_square(e.lots); }));
    table.add_row(std::move(row));
  }
  return table;
}

Table net_table(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  const AndNetSettings& s = settings.net;
  Table table(
      {{"net", kLeft},
       {"both on"},
       {"one on"},
       {"neither"},
       {"both within, %"},
       {"one within, %"},
       {"neither within, %"},
       {"bimodality of W"}},
      fmt::format("Nets trained to {} of {} pairs (d0 {}, d {}): mean squared error and the "
                  "share of errors of at most {:g}, on {} inputs not trained on. Bimodality "
                  "is 1 where there are two values alone, 5/9 of a uniform distribution.",
                  name_of(s.target), s.pairs(), s.d0, s.d, kPairTolerance, s.test_inputs));
  for (size_t r = 0; r < result.seeds.front().nets.size(); ++r) {
    const auto figure = [&](int decimals, auto of) {
      return cell(result, decimals,
                  [r, of](const UniversalAndResult::OfSeed& run) { return of(run.nets[r]); });
    };
    std::vector<Table::Cell> row = {result.seeds.front().nets[r].name};
    for (const size_t c : {kBoth, kOne, kNeither}) {
      row.push_back(figure(4, [c](const AndNetResult& n) { return n.errors[c].mean_square(); }));
    }
    for (const size_t c : {kBoth, kOne, kNeither}) {
      row.push_back(
          figure(1, [c](const AndNetResult& n) { return 100 * n.errors[c].share_within(); }));
    }
    row.push_back(figure(
        2, [](const AndNetResult& n) { return n.W.empty() ? kNone : shape_of(n.W).bimodality(); }));
    table.add_row(std::move(row));
  }
  std::vector<Table::Cell> linear = {"x itself, derived"};
  const auto errors = linear_read_errors(s.target);
  for (const size_t c : {kBoth, kOne, kNeither}) {
    linear.push_back(fmt::format("{:.4f}", errors[c] * errors[c]));
  }
  for (const size_t c : {kBoth, kOne, kNeither}) {
    linear.push_back(fmt::format("{:.1f}", std::abs(errors[c]) <= kPairTolerance ? 100.0 : 0.0));
  }
  linear.emplace_back(std::string("–"));
  table.add_row(std::move(linear));
  return table;
}

}  // namespace

Spread spread_of(const UniversalAndResult& result, const FigureOfSeed& figure) {
  return spread_of(over_seeds(result, figure));
}

double balanced_mean_square(const ClassErrors& errors) {
  double sum = 0;
  for (const ReadErrors& e : errors) sum += e.mean_square() / kPairClasses;
  return sum;
}

double balanced_within(const ClassErrors& errors) {
  double sum = 0;
  for (const ReadErrors& e : errors) sum += e.share_within() / kPairClasses;
  return sum;
}

std::array<double, kPairClasses> linear_read_errors(PairTarget target) {
  if (target == PairTarget::xor_) return {1.0 / 3, -2.0 / 3, 1.0 / 3};
  return {-1.0 / 6, 1.0 / 3, -1.0 / 6};
}

std::vector<Table> universal_and_tables(const UniversalAndSettings& settings,
                                        const UniversalAndResult& result) {
  return {construction_table(settings, result), scaling_table(settings, result),
          readout_table(settings, result), net_table(settings, result)};
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// The page of the universal-AND experiment, and its JSON.
#include <algorithm>
#include <cmath>

#include "elapse/experiments/universal_and.h"
#include "elapse/experiments/universal_and_tables.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

using OfSeed = UniversalAndResult::OfSeed;

std::vector<double> as_doubles(const std::vector<int64_t>& values) {
  return {values.begin(), values.end()};
}

Plot width_plot(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  const auto& s = settings.construction;
  Plot plot("Worst-class error of the construction against its width", {"neurons d", Scale::log2},
            {"mean error", Scale::log10});
  for (const int64_t d0 : s.d0) {
    Plot::Series series = {.name = fmt::format("d0 = {}", d0),
                           .x = as_doubles(s.d),
                           .y = {},
                           .style = Plot::Style::markers};
    for (const int64_t d : s.d) {
      const Spread spread = spread_of(result, [&](const OfSeed& run) {
        const auto* const best = run.best(d0, d, s.empty_allowed);
        return best ? best->errors.worst_class() : NAN;
      });
      series.y.push_back(spread.median);
      series.lo.push_back(spread.least);
      series.hi.push_back(spread.largest);
    }
    plot.add(std::move(series));
  }
  Plot::Series law = {.name = "law at p = 2.56 / sqrt(d)",
                      .x = as_doubles(s.d),
                      .y = {},
                      .style = Plot::Style::dashed};
  for (const int64_t d : s.d) {
    const auto errors = and_error_law(s.ones, sharing_p(d));
    law.y.push_back(*std::max_element(errors.begin(), errors.end()));
  }
  return plot.add(std::move(law));
}

// Of the largest d0, of the first seed.
Plot grid_plot(const UniversalAndSettings& settings, const OfSeed& run) {
  const auto& s = settings.construction;
  const int64_t d0 = *std::max_element(s.d0.begin(), s.d0.end());
  Plot plot(fmt::format("Worst-class error over the grid of p, d0 = {}", d0), {"p sqrt(d)"},
            {"mean error", Scale::log10});
  for (const int64_t d : s.d) {
    std::vector<double> x, y;
    for (const UniversalAndResult::Cell& cell : run.construction) {
      if (cell.d0 != d0 || cell.d != d) continue;
      x.push_back(cell.p * std::sqrt(static_cast<double>(d)));
      y.push_back(cell.errors.worst_class());
    }
    plot.add({fmt::format("d = {}", d), x, y, Plot::Style::marked_line});
  }
  return plot;
}

Plot readout_plot(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  Plot plot("Read-outs of layers drawn at random: AND", {"neurons d", Scale::log2},
            {"mean squared error, held out", Scale::log10});
  const std::vector<ReadoutErrors>& rows = result.seeds.front().readouts;
  const auto& widths = settings.readouts.widths;
  const auto error_of = [&](size_t r) {
    return spread_of(result,
                     [r](const OfSeed& run) { return balanced_mean_square(run.readouts[r].and_); })
        .median;
  };
  std::vector<std::string> drawn;
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::string& name = rows[r].layer;
    if (rows[r].d <= 0) {  // no width of its own: a level
      const double level = error_of(r);
      plot.add({rows[r].d == 0 ? name : name + ", without end", as_doubles(widths),
                std::vector<double>(widths.size(), level), Plot::Style::dashed});
      continue;
    }
    if (std::find(drawn.begin(), drawn.end(), name) != drawn.end()) continue;
    drawn.push_back(name);
    Plot::Series series = {.name = name, .x = {}, .y = {}, .style = Plot::Style::marked_line};
    for (size_t o = r; o < rows.size(); ++o) {
      if (rows[o].layer != name || rows[o].d <= 0) continue;
      series.x.push_back(static_cast<double>(rows[o].d));
      series.y.push_back(error_of(o));
    }
    plot.add(std::move(series));
  }
  return plot;
}

Plot loss_plot(const OfSeed& run) {
  Plot plot("Loss of the nets", {"step"}, {"loss", Scale::log10});
  for (const AndNetResult& net : run.nets) {
    if (net.losses.empty()) continue;
    std::vector<double> steps;
    for (size_t i = 0; i < net.losses.size(); ++i) steps.push_back(static_cast<double>(i + 1));
    plot.add({net.name, std::move(steps), net.losses});
  }
  return plot;
}

// Shares of the weights in equal bins, each at its middle.
Plot::Series histogram(const std::string& name, const std::vector<float>& W, double lo, double hi,
                       Plot::Style style) {
  constexpr int64_t kBins = 48;
  Plot::Series series = {
      .name = name, .x = {}, .y = std::vector<double>(static_cast<size_t>(kBins)), .style = style};
  const double width = (hi - lo) / kBins;
  for (int64_t b = 0; b < kBins; ++b) {
    series.x.push_back(lo + (static_cast<double>(b) + 0.5) * width);
  }
  for (const float w : W) {
    const auto bin = static_cast<int64_t>((static_cast<double>(w) - lo) / width);
    series.y[static_cast<size_t>(std::clamp<int64_t>(bin, 0, kBins - 1))] +=
        1 / static_cast<double>(W.size());
  }
  return series;
}

// The trained net's and its own start's, which the net of trained read-outs keeps; the
// construction.
void add_weights(Report& report, const OfSeed& run) {
  const std::vector<float>&trained = run.nets[0].W, &drawn = run.nets[1].W;
  const auto [least, largest] = std::minmax_element(trained.begin(), trained.end());
  const auto lo = static_cast<double>(*least), hi = static_cast<double>(*largest);
  Plot nets("Weights of W, trained", {"W_ki"}, {"share in a bin"});
  nets.add(histogram("trained", trained, lo, hi, Plot::Style::step));
  nets.add(histogram("as drawn", drawn, lo, hi, Plot::Style::step));
  Plot construction("Weights of W, the construction", {"W_ki"}, {"share in a bin"});
  const double w = 1.0 / 24;  // of a bin: 0 and 1 lie amid theirs
  construction.add(
      histogram("construction", run.nets[2].W, -11.5 * w, 36.5 * w, Plot::Style::bars));
  report.plot(nets).plot(construction);
}

std::string opening(const UniversalAndSettings& settings, const UniversalAndResult& result) {
  const auto& s = settings.construction;
  double least = 0, largest = -1;
  for (const int64_t d0 : s.d0) {
    const double slope =
        spread_of(result, [&](const OfSeed& run) { return run.slope(d0, s.empty_allowed); }).median;
    if (!std::isfinite(slope)) continue;
    least = std::min(least, slope);
    largest = std::max(largest, slope);
  }
  if (largest < least) return "The AND of every pair of inputs out of one layer.";
  return fmt::format(
      "One layer of the construction gives the AND of every pair of inputs, and its worst-class "
      "error falls with its width to the power {:.2f} to {:.2f}; the law says -0.5.",
      least, largest);
}

void write_errors(JsonWriter& json, const char* name, const ClassErrors& errors) {
  json.key(name).begin_object();
  for (int on = 0; on < kPairClasses; ++on) {
    const ReadErrors& e = errors[static_cast<size_t>(on)];
    json.key(name_of_pair_class(on))
        .begin_object()
        .field("reads", e.count)
        .field("mean", e.mean())
        .field("mean_square", e.mean_square())
        .field("within", e.share_within())
        .field("largest", e.largest)
        .end_object();
  }
  json.end_object();
}

void write_cell(JsonWriter& json, int64_t ones, const UniversalAndResult::Cell& cell) {
  const ConstructionErrors& e = cell.errors;
  json.begin_object()
      .field("d0", cell.d0)
      .field("d", cell.d)
      .field("p", cell.p)
      .field("pairs", e.pairs)
      .field("empty_pairs", e.empty_pairs)
      .field("worst_class", e.worst_class());
  write_errors(json, "and", e.and_);
  write_errors(json, "xor", e.xor_);
  const auto law = and_error_law(ones, cell.p);
  for (const auto& [name, by_class] :
       {std::pair{"law", law}, {"standard_errors", e.standard_errors}}) {
    json.key(name).begin_object();
    for (int on = 0; on < kPairClasses; ++on) {
      json.field(name_of_pair_class(on), by_class[static_cast<size_t>(on)]);
    }
    json.end_object();
  }
  json.end_object();
}

void write_net(JsonWriter& json, const AndNetResult& net) {
  json.begin_object().field("name", net.name);
  write_errors(json, "errors", net.errors);
  if (!net.W.empty()) {
    const WeightShape shape = shape_of(net.W);
    json.key("weights")
        .begin_object()
        .field("mean", shape.mean)
        .field("sd", shape.sd)
        .field("skewness", shape.skewness)
        .field("kurtosis", shape.kurtosis)
        .field("bimodality", shape.bimodality())
        .end_object();
  }
  json.field("losses", net.losses).end_object();
}

void write_seed(JsonWriter& json, const UniversalAndSettings& settings, const OfSeed& run) {
  json.begin_object().field("seed", run.seed).key("construction").begin_array();
  for (const UniversalAndResult::Cell& cell : run.construction) {
    write_cell(json, settings.construction.ones, cell);
  }
  json.end_array().key("readouts").begin_array();
  for (const ReadoutErrors& row : run.readouts) {
    json.begin_object().field("layer", row.layer).field("d", row.d);
    write_errors(json, "and", row.and_);
    write_errors(json, "xor", row.xor_);
    write_errors(json, "random_labels", row.lots);
    json.end_object();
  }
  json.end_array().key("nets").begin_array();
  for (const AndNetResult& net : run.nets) write_net(json, net);
  json.end_array().end_object();
}

void write_settings(JsonWriter& json, const UniversalAndSettings& settings) {
  const UniversalAndSettings::Construction& c = settings.construction;
  json.key("construction_settings")
      .begin_object()
      .field("ones", c.ones)
      .field("inputs", c.inputs)
      .field("p_sqrt_d", c.p_sqrt_d)
      .field("empty_allowed", c.empty_allowed)
      .end_object();
  const ReadoutSettings& r = settings.readouts;
  const auto counts = [](const std::array<int64_t, kPairClasses>& of) {
    return std::vector<double>(of.begin(), of.end());
  };
  json.key("readout_settings")
      .begin_object()
      .field("d0", r.d0)
      .field("ones", r.ones)
      .field("pairs", r.pairs)
      .field("train", counts(r.train))
      .field("test", counts(r.test))
      .field("ridge", r.ridge)
      .end_object();
  const AndNetSettings& n = settings.net;
  json.key("net_settings")
      .begin_object()
      .field("d0", n.d0)
      .field("d", n.d)
      .field("ones", n.expected_ones())
      .field("target", name_of(n.target))
      .field("loss", name_of(n.loss))
      .field("pairs", n.pairs())
      .field("steps", n.steps)
      .field("batch", n.batch)
      .field("learning_rate", n.lr)
      .field("test_inputs", n.test_inputs)
      .end_object();
}

}  // namespace

std::string universal_and_json(const UniversalAndSettings& settings,
                               const UniversalAndResult& result) {
  JsonWriter json;
  json.begin_object()
      .field("experiment", "universal-and")
      .field("seed", settings.seed)
      .field("device", result.device)
      .field("tolerance", kPairTolerance);
  write_settings(json, settings);
  json.key("seeds").begin_array();
  for (const OfSeed& run : result.seeds) write_seed(json, settings, run);
  return json.end_array()
      .field("construction_seconds", result.construction_seconds)
      .field("readout_seconds", result.readout_seconds)
      .field("training_seconds", result.training_seconds)
      .end_object()
      .text();
}

Report universal_and_report(const UniversalAndSettings& settings,
                            const UniversalAndResult& result) {
  Report report("Universal AND", opening(settings, result));
  const std::vector<Table> tables = universal_and_tables(settings, result);
  const OfSeed& first = result.seeds.front();
  report.section("The construction")
      .paragraph(
          "A neuron reads each input with chance p and stays at 0 until two of those it reads are "
          "on. The AND of a pair is the mean of the neurons that read both; what is wrong with it "
          "are further inputs that are on and read by the same neurons. A smaller p makes fewer of "
          "them, until pairs share no neuron at all.")
      .plot(width_plot(settings, result))
      .table(tables[0])
      .table(tables[1])
      .plot(grid_plot(settings, first));
  report.section("Layers drawn at random")
      .plot(readout_plot(settings, result))
      .table(tables[2])
      .paragraph(
          "A threshold tells AND from x itself without fail, so that read-outs have to be judged "
          "by "
          "their errors. Without noise x leaves 1/18 = 0.0556 of AND and 2/9 = 0.2222 of XOR, of "
          "which it reads nothing.");
  report.section("Trained nets").table(tables[3]).plot(loss_plot(first));
  add_weights(report, first);
  const AndNetSettings& net = settings.net;
  report.section("The run").facts(
      {{"Seeds", settings.seeds == 1 ? std::to_string(settings.seed)
                                     : fmt::format("{} to {}", settings.seed,
                                                   first.seed + result.seeds.size() - 1)},
       {"Nets", fmt::format("{} steps of {} inputs, {:.2f} on by expectation, learning rate {:g}; "
                            "{} of {} pairs are targets; loss {}",
                            net.steps, net.batch, net.expected_ones(), net.lr, net.pairs(),
                            net.d0 * (net.d0 - 1) / 2, name_of(net.loss))},
       {"Ridge", fmt::format("{:g}", settings.readouts.ridge)},
       {"Time",
        fmt::format("construction {:.1f} s, read-outs {:.1f} s, training {:.1f} s",
                    result.construction_seconds, result.readout_seconds, result.training_seconds)},
       {"Device", result.device}});
  return report;
}

}  // namespace elapse

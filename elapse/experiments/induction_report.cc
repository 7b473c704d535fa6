// SPDX-License-Identifier: Apache-2.0
// What the induction experiment shows: its table, its page and its JSON.
#include <array>
#include <cmath>
#include <limits>

#include "elapse/experiments/induction.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

constexpr double kPerfect = 100;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();  // out of memory
constexpr int kFirstLog2 = 6, kLastLog2 = 20;

// Gu and Dao, 2023, Table 11: accuracy in percent at lengths 2^6 ... 2^20.
struct Published {
  const char* name;
  const char* parameters;
  std::array<double, kLastLog2 - kFirstLog2 + 1> accuracy;
};
constexpr double P = kPerfect, N = kNone;
constexpr Published kPublished[] = {
    {"MHA-Abs", "137K", {P, 99.6, 100, 58.6, 26.6, 18.8, 9.8, 10.9, 7.8, N, N, N, N, N, N}},
    {"MHA-RoPE", "137K", {P, P, 100, 83.6, 31.3, 18.4, 8.6, 9.0, 5.5, N, N, N, N, N, N}},
    {"MHA-xPos", "137K", {P, P, 100, 99.6, 67.6, 25.4, 7.0, 9.0, 7.8, N, N, N, N, N, N}},
    {"H3", "153K", {P, P, 100, 80.9, 39.5, 23.8, 14.8, 8.2, 5.9, 6.6, 8.2, 4.7, 8.2, 6.3, 7.4}},
    {"Hyena", "69M", {97.7, P, 100, P, 44.1, 12.5, 6.6, 5.1, 7.0, 5.9, 6.6, 6.6, 5.9, 6.3, 9.8}},
    {"Mamba", "74K", {P, P, P, P, P, P, P, P, P, P, P, P, P, P, P}},
};

std::vector<double> smoothed(const std::vector<double>& values, int64_t window) {
  std::vector<double> out;
  double sum = 0;
  for (int64_t i = 0; i < std::ssize(values); ++i) {
    sum += values[static_cast<size_t>(i)];
    if (i >= window) sum -= values[static_cast<size_t>(i - window)];
    out.push_back(sum / static_cast<double>(std::min(i + 1, window)));
  }
  return out;
}

std::vector<double> counting(size_t n, double first) {
  std::vector<double> x;
  for (size_t i = 0; i < n; ++i) x.push_back(first + static_cast<double>(i));
  return x;
}

Plot loss_plot(const InductionSettings& settings, const InductionResult& result) {
  const std::vector<double> steps = counting(result.losses.size(), 1);
  Plot plot("Loss while training", {"step"}, {"cross-entropy of the answer, nats", Scale::log10});
  plot.add({"mean of 50 steps", steps, smoothed(result.losses, 50)});
  plot.add({"each step", steps, result.losses});
  int64_t step = 0;
  for (const Phase& phase : settings.train.curriculum) {
    step += phase.steps;
    plot.mark(static_cast<double>(step), fmt::format("to {}", settings.train.length_at(step)));
  }
  return plot;
}

// What has a step size of its own.
std::string_view unit(const InductionSettings& settings) {
  return settings.model.mixer == MixerKind::mamba ? "channel" : "head";
}

Plot step_size_plot(const InductionSettings& settings, const InductionResult& result) {
  Plot plot("The step size dt along one sequence of 256 tokens", {"token"}, {"dt", Scale::log10});
  for (const auto& sizes : result.step_sizes) {
    const std::vector<double> tokens = counting(sizes.mean.size(), 0);
    plot.add({fmt::format("layer {}, {} {}", sizes.layer, unit(settings), sizes.channel), tokens,
              sizes.selective});
    plot.add({fmt::format("layer {}, mean of {}s", sizes.layer, unit(settings)), tokens, sizes.mean,
              Plot::Style::dashed});
  }
  plot.mark(static_cast<double>(result.prefix + 1), "the token after the prefix");
  return plot;
}

std::string curriculum_text(const TrainConfig& train) {
  std::string text;
  int64_t steps = 0;
  for (const Phase& phase : train.curriculum) {
    text += fmt::format("{} for {} steps, ", phase.length, phase.steps);
    steps += phase.steps;
  }
  return text + fmt::format("{} for {} steps", train.length, train.steps - steps);
}

Report::Facts facts(const InductionSettings& s, const InductionResult& r) {
  const AdamWConfig& adamw = s.train.adamw;
  return {
      {"Model",
       fmt::format("{}, {} layers, d_model {}{}, {} parameters", title_of(s.model.mixer),
                   s.model.n_layers, s.model.d_model,
                   s.model.d_state == 0 ? "" : fmt::format(", d_state {}", s.model.d_state),
                   r.parameters)},
      {"Lengths trained", curriculum_text(s.train)},
      {"Tokens a step", fmt::format("{}, or one longer sequence", s.train.batch_tokens)},
      {"Optimiser", fmt::format("AdamW, learning rate {}, betas {} {}, weight decay {}, gradient "
                                "norm clipped to {}",
                                s.train.schedule.peak_lr, adamw.beta1, adamw.beta2,
                                adamw.weight_decay, adamw.max_norm)},
      {"Seed", std::to_string(s.seed)},
      {"Device", r.device},
      {"Training", fmt::format("{} steps in {:.0f} s", r.losses.size(), r.training_seconds)},
      {"Testing", fmt::format("{:.0f} s", r.testing_seconds)},
  };
}

std::string longest_perfect(const InductionResult& result) {
  int64_t longest = 0;
  for (const auto& row : result.rows) {
    if (row.right < row.sequences) break;
    longest = row.length;
  }
  return longest == 0 ? "No length was answered without a mistake."
                      : fmt::format("Every answer was right at every length up to {}.", longest);
}

std::string how_measured(const InductionSettings& settings, const InductionResult& result) {
  std::string text = settings.unlike_published();
  if (!text.empty()) text += " ";
  text += fmt::format("{} test sequences at each length", result.rows.front().sequences);
  for (const auto& row : result.rows) {
    if (row.sequences == result.rows.front().sequences) continue;
    return text + fmt::format(", {} from length {} on.", row.sequences, row.length);
  }
  return text + ".";
}

std::string percent(double accuracy) {
  if (!std::isfinite(accuracy)) return "✗";
  return accuracy == kPerfect ? "✓" : fmt::format("{:.1f}", accuracy);
}

}  // namespace

Table induction_table(const InductionSettings& settings, const InductionResult& result) {
  std::vector<Table::Column> columns = {{"accuracy, %", Table::Align::left}};
  for (const auto& row : result.rows) {
    columns.push_back({fmt::format("2^{}", std::lround(std::log2(row.length)))});
  }
  Table table(columns,
              fmt::format("✓ every answer right, ✗ out of memory; chance is 6.25. This run "
                          "trained at up to {} tokens; published (Gu and Dao, 2023, Table "
                          "11): at 256.",
                          settings.longest_trained()));
  std::vector<Table::Cell> ours = {fmt::format("{}, this run", title_of(settings.model.mixer))};
  for (const auto& row : result.rows) ours.push_back(percent(kPerfect * row.accuracy()));
  for (const Published& published : kPublished) {
    std::vector<Table::Cell> cells = {fmt::format("{}, published", published.name)};
    for (const auto& row : result.rows) {
      const auto k = static_cast<size_t>(std::lround(std::log2(row.length)) - kFirstLog2);
      cells.push_back(percent(published.accuracy.at(k)));
    }
    table.add_row(std::move(cells));
  }
  table.add_row(std::move(ours));
  return table;
}

Plot induction_accuracy_plot(const InductionSettings& settings, const InductionResult& result) {
  const int64_t longest_trained = settings.longest_trained();
  Plot plot("Induction heads: accuracy against length",
            {"length of the test sequence", Scale::log2},
            {.label = "accuracy, %", .lo = 0, .hi = 100});
  std::vector<double> lengths, ours;
  for (const auto& row : result.rows) {
    lengths.push_back(static_cast<double>(row.length));
    ours.push_back(kPerfect * row.accuracy());
  }
  plot.add({fmt::format("{}, this run", title_of(settings.model.mixer)), lengths, ours,
            Plot::Style::marked_line});
  std::vector<double> published_lengths;
  for (int k = kFirstLog2; k <= kLastLog2; ++k) published_lengths.push_back(std::exp2(k));
  for (const Published& published : kPublished) {
    plot.add({fmt::format("{}, published", published.name),
              published_lengths,
              {published.accuracy.begin(), published.accuracy.end()},
              Plot::Style::dashed});
  }
  plot.mark(256, "published: trained here");
  plot.mark(static_cast<double>(longest_trained), "this run: up to here");
  return plot;
}

Report induction_report(const InductionSettings& settings, const InductionResult& result) {
  Report report("Induction heads", longest_perfect(result));
  report.section("Result")
      .plot(induction_accuracy_plot(settings, result))
      .table(induction_table(settings, result));
  report.paragraph(how_measured(settings, result));
  report.section("The task")
      .paragraph(
          "A sequence of random tokens holds one special token, the prefix, somewhere inside; the "
          "prefix comes again at the very end, and the model is to answer with the token that "
          "followed it the first time. Everything else has to be forgotten, however much of it "
          "there "
          "is, and that one token kept.");
  if (!result.step_sizes.empty()) {
    report.section("How it remembers")
        .paragraph(fmt::format(
            "The step size dt decides how much a layer writes and forgets at a token. Near 0 "
            "the state passes the token by untouched; where dt is large the token is "
            "written. Here are the mean over each layer's {0}s, and "
            "the {0} that opens most at the token after the prefix.",
            unit(settings)))
        .plot(step_size_plot(settings, result));
  }
  report.section("Training").plot(loss_plot(settings, result)).facts(facts(settings, result));
  return report;
}

std::string induction_json(const InductionSettings& settings, const InductionResult& result) {
  JsonWriter json;
  json.begin_object().field("experiment", "induction").key("rows").begin_array();
  for (const auto& row : result.rows) {
    json.begin_object().field("mixer", name_of(settings.model.mixer)).field("length", row.length);
    json.field("accuracy", row.accuracy()).field("sequences", row.sequences).end_object();
  }
  json.end_array().key("settings").begin_object();
  for (const auto& [name, value] : facts(settings, result)) json.field(name, value);
  return json.end_object()
      .field("steps", settings.train.steps)
      .field("seed", settings.seed)
      .field("final_loss", smoothed(result.losses, 50).back())
      .field("training_seconds", result.training_seconds)
      .field("testing_seconds", result.testing_seconds)
      .end_object()
      .text();
}

}  // namespace elapse

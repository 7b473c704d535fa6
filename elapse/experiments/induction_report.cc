// SPDX-License-Identifier: Apache-2.0
// What the induction experiment shows: its table, its page and its JSON.
#include <array>
#include <cmath>
#include <limits>

#include "elapse/experiments/induction.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"
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

std::vector<double> counting(size_t n, double first) {
  std::vector<double> x;
  for (size_t i = 0; i < n; ++i) x.push_back(first + static_cast<double>(i));
  return x;
}

using Models = std::vector<ComparedRuns>;

const Models& models_of(const InductionResult& result) { return result.comparison.models; }

bool is_one_run(const InductionResult& result) {
  return models_of(result).size() == 1 && result.comparison.seeds.count == 1;
}

// Of the first seed.
Plot loss_plot(const InductionSettings& settings, const InductionResult& result) {
  Plot plot("Loss while training", {"step"}, {"cross-entropy of the answer, nats", Scale::log10});
  for (const ComparedRuns& m : models_of(result)) {
    const std::vector<double>& losses = m.runs.front().losses;
    const std::string name = is_one_run(result) ? "" : m.what.row + ", ";
    plot.add({name + "mean of 50 steps", counting(losses.size(), 1), smoothed(losses, 50)});
    if (is_one_run(result)) plot.add({"each step", counting(losses.size(), 1), losses});
  }
  int64_t step = 0;
  for (const Phase& phase : settings.train.curriculum) {
    step += phase.steps;
    plot.mark(static_cast<double>(step), fmt::format("to {}", settings.train.length_at(step)));
  }
  return plot;
}

// What has a step size of its own.
std::string_view unit(const InductionResult& result) {
  return result.looked_at == title_of(MixerKind::mamba2) ? "head" : "channel";
}

Plot step_size_plot(const InductionResult& result) {
  Plot plot(fmt::format("{}: the step size dt along one sequence of 256 tokens", result.looked_at),
            {"token"}, {"dt", Scale::log10});
  for (const auto& sizes : result.step_sizes) {
    const std::vector<double> tokens = counting(sizes.mean.size(), 0);
    plot.add({fmt::format("layer {}, {} {}", sizes.layer, unit(result), sizes.channel), tokens,
              sizes.selective});
    plot.add({fmt::format("layer {}, mean of {}s", sizes.layer, unit(result)), tokens, sizes.mean,
              Plot::Style::dashed});
  }
  plot.mark(static_cast<double>(result.prefix + 1), "the token after the prefix");
  return plot;
}

std::string model_text(const ComparedRuns& m) {
  const ModelConfig& c = m.what.model;
  return fmt::format("{}, {} layers, d_model {}{}, {} parameters; {} steps: {} tokens{}",
                     m.what.row, c.n_layers, c.d_model,
                     c.d_state == 0 ? "" : fmt::format(", d_state {}", c.d_state),
                     m.runs.front().parameters, m.what.train.steps, steps_text(m.what.train),
                     has_reach(c.mixer) ? fmt::format("; sees up to {} tokens", reach_of(c)) : "");
}

double training_seconds(const InductionResult& r) {
  double sum = 0;
  for (const ComparedRuns& m : models_of(r)) {
    for (const RunResult& run : m.runs) sum += run.training_seconds;
  }
  return sum;
}

Report::Facts facts(const InductionSettings& s, const InductionResult& r) {
  const AdamWConfig& adamw = s.train.adamw;
  const Seeds& seeds = r.comparison.seeds;
  Report::Facts list;
  for (const ComparedRuns& m : models_of(r)) {
    list.emplace_back(models_of(r).size() == 1 ? "Model" : m.what.row, model_text(m));
  }
  const Report::Facts common = {
      {"Tokens a step", fmt::format("{}, or one longer sequence", s.train.batch_tokens)},
      {"Optimiser", fmt::format("AdamW, learning rate {}, betas {} {}, weight decay {}, gradient "
                                "norm clipped to {}",
                                s.train.schedule.peak_lr, adamw.beta1, adamw.beta2,
                                adamw.weight_decay, adamw.max_norm)},
      {seeds.count == 1 ? "Seed" : "Seeds", seeds.text()},
      {"Device", r.comparison.devices()},
      {"Training", fmt::format("{:.0f} s", training_seconds(r))},
      {"Testing", fmt::format("{:.0f} s", r.comparison.seconds() - training_seconds(r))},
  };
  list.insert(list.end(), common.begin(), common.end());
  return list;
}

// Up to which every answer was right, from every seed; 0: none.
int64_t longest_perfect(const ComparedRuns& m) {
  int64_t longest = 0;
  for (size_t row = 0; row < m.runs.front().tests.size(); ++row) {
    for (const RunResult& run : m.runs) {
      if (run.diverged || run.tests[row].accuracy < 1) return longest;
    }
    longest = m.runs.front().tests[row].length;
  }
  return longest;
}

std::string summary(const InductionResult& result) {
  if (models_of(result).size() == 1) {
    const int64_t longest = longest_perfect(models_of(result).front());
    return longest == 0 ? "No length was answered without a mistake."
                        : fmt::format("Every answer was right at every length up to {}.", longest);
  }
  std::string text = "Every answer was right up to";
  for (const ComparedRuns& m : models_of(result)) {
    const int64_t longest = longest_perfect(m);
    text += fmt::format("{} {} {}", &m == &models_of(result).front() ? "" : ",",
                        longest == 0 ? "no length" : std::to_string(longest), m.what.row);
  }
  return text + ".";
}

std::string how_measured(const InductionSettings& settings) {
  std::string text = settings.unlike_published();
  if (!text.empty()) text += " ";
  text += fmt::format("{} test sequences at each length", settings.tests.front().sequences);
  for (const auto& test : settings.tests) {
    if (test.sequences == settings.tests.front().sequences) continue;
    return text + fmt::format(", {} from length {} on.", test.sequences, test.length);
  }
  return text + ".";
}

// In percent, over the seeds.
Spread accuracy(const ComparedRuns& m, size_t row) {
  return spread_of(m.over_seeds([&](const RunResult& run) {
    return row < run.tests.size() ? kPerfect * run.tests[row].accuracy : kNone;
  }));
}

std::string percent(double accuracy) {
  if (!std::isfinite(accuracy)) return "✗";
  return accuracy == kPerfect ? "✓" : fmt::format("{:.1f}", accuracy);
}

std::string percent(const Spread& s) {
  if (!std::isfinite(s.median)) return "–";  // not tested
  if (s.least == s.largest) return percent(s.median);
  return fmt::format("{} [{}, {}]", percent(s.median), percent(s.least), percent(s.largest));
}

}  // namespace

Table induction_table(const InductionSettings& settings, const InductionResult& result) {
  std::vector<Table::Column> columns = {{"accuracy, %", Table::Align::left}};
  for (const auto& test : settings.tests) {
    columns.push_back({fmt::format("2^{}", std::lround(std::log2(test.length)))});
  }
  const bool several = result.comparison.seeds.count > 1;
  std::string shorter;
  for (const ComparedRuns& m : models_of(result)) {
    const int64_t longest = longest_trained(m.what.train);
    if (longest == longest_trained(settings.train)) continue;
    shorter += fmt::format(" {} at up to {};", m.what.row, longest);
  }
  Table table(
      columns,
      fmt::format("✓ every answer right, ✗ out of memory, – not tested; chance is 6.25. This run "
                  "trained at up to {} tokens;{} published (Gu and Dao, 2023, Table "
                  "11): at 256.{}",
                  longest_trained(settings.train), shorter,
                  several ? fmt::format(" Of {} seeds the median, and the least and the "
                                        "largest in brackets where they differ.",
                                        result.comparison.seeds.count)
                          : ""));
  for (const Published& published : kPublished) {
    std::vector<Table::Cell> cells = {fmt::format("{}, published", published.name)};
    for (const auto& test : settings.tests) {
      const auto k = static_cast<size_t>(std::lround(std::log2(test.length)) - kFirstLog2);
      cells.push_back(percent(published.accuracy.at(k)));
    }
    table.add_row(std::move(cells));
  }
  for (const ComparedRuns& m : models_of(result)) {
    std::vector<Table::Cell> cells = {fmt::format("{}, this run", m.what.row)};
    for (size_t row = 0; row < settings.tests.size(); ++row) {
      cells.push_back(m.diverged() == std::ssize(m.runs) ? "diverged" : percent(accuracy(m, row)));
    }
    table.add_row(std::move(cells));
  }
  return table;
}

Plot induction_accuracy_plot(const InductionSettings& settings, const InductionResult& result) {
  Plot plot("Induction heads: accuracy against length",
            {"length of the test sequence", Scale::log2},
            {.label = "accuracy, %", .lo = 0, .hi = 100});
  for (const ComparedRuns& m : models_of(result)) {
    Plot::Series ours = {fmt::format("{}, this run", m.what.row), {}, {}, Plot::Style::marked_line};
    for (size_t row = 0; row < settings.tests.size(); ++row) {
      const Spread spread = accuracy(m, row);
      ours.x.push_back(static_cast<double>(settings.tests[row].length));
      ours.y.push_back(spread.median);
      if (m.runs.size() == 1) continue;
      ours.lo.push_back(spread.least);
      ours.hi.push_back(spread.largest);
    }
    plot.add(std::move(ours));
  }
  std::vector<double> published_lengths;
  for (int k = kFirstLog2; k <= kLastLog2; ++k) published_lengths.push_back(std::exp2(k));
  for (const Published& published : kPublished) {
    plot.add({fmt::format("{}, published", published.name),
              published_lengths,
              {published.accuracy.begin(), published.accuracy.end()},
              Plot::Style::dashed});
  }
  plot.mark(256, "published: trained here");
  plot.mark(static_cast<double>(longest_trained(settings.train)), "this run: up to here");
  return plot;
}

Report induction_report(const InductionSettings& settings, const InductionResult& result) {
  Report report("Induction heads", summary(result));
  report.section("Result")
      .plot(induction_accuracy_plot(settings, result))
      .table(induction_table(settings, result));
  report.paragraph(how_measured(settings));
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
            unit(result)))
        .plot(step_size_plot(result));
  }
  report.section("Training").plot(loss_plot(settings, result)).facts(facts(settings, result));
  return report;
}

std::string induction_json(const InductionSettings& settings, const InductionResult& result) {
  JsonWriter json;
  json.begin_object().field("experiment", "induction").key("rows").begin_array();
  for (const ComparedRuns& m : models_of(result)) {
    for (size_t i = 0; i < m.runs.size(); ++i) {
      for (const Evaluation& test : m.runs[i].tests) {
        json.begin_object().field("mixer", name_of(m.what.model.mixer));
        json.field("seed", result.comparison.seeds.first + i).field("length", test.length);
        json.field("accuracy", test.accuracy).field("sequences", test.targets).end_object();
      }
    }
  }
  json.end_array().key("runs").begin_array();
  for (const ComparedRuns& m : models_of(result)) {
    for (size_t i = 0; i < m.runs.size(); ++i) {
      const RunResult& run = m.runs[i];
      json.begin_object().field("mixer", name_of(m.what.model.mixer));
      json.field("seed", result.comparison.seeds.first + i).field("parameters", run.parameters);
      if (run.diverged) json.field("diverged_at_step", run.diverged->step);
      json.field("steps", m.what.train.steps).field("longest", longest_trained(m.what.train));
      json.field("device", run.device);
      json.field("final_loss", run.final_loss()).field("training_seconds", run.training_seconds);
      json.field("testing_seconds", run.testing_seconds).end_object();
    }
  }
  json.end_array().key("settings").begin_object();
  for (const auto& [name, value] : facts(settings, result)) json.field(name, value);
  return json.end_object()
      .field("unlike_published", settings.unlike_published())
      .end_object()
      .text();
}

}  // namespace elapse

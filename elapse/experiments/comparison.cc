// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/comparison.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "elapse/experiments/spread.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

// In the order they come first.
std::vector<std::string> different(const Comparison& comparison,
                                   std::string ComparedModel::*member) {
  std::vector<std::string> names;
  for (const ComparedRuns& m : comparison.models) {
    const std::string& name = m.what.*member;
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

const ComparedRuns* find(const Comparison& comparison, const std::string& row,
                         const std::string& column) {
  for (const ComparedRuns& m : comparison.models) {
    if (m.what.row == row && m.what.column == column) return &m;
  }
  return nullptr;
}

// Those that there are, in ascending order.
template <class Value>
std::string distinct(const Comparison& comparison, Value&& value) {
  std::set<decltype(value(comparison.models.front().what))> values;
  for (const ComparedRuns& m : comparison.models) values.insert(value(m.what));
  return fmt::format("{}", fmt::join(values, ", "));
}

// Of the first test, which a run that diverged has not.
double of_first_test(const RunResult& run, double Evaluation::*figure) {
  return run.tests.empty() ? std::numeric_limits<double>::quiet_NaN() : run.tests.front().*figure;
}

std::string text_of(const AdamWConfig& adamw) {
  return fmt::format("betas {} {}, weight decay {}, gradient norm clipped to {}", adamw.beta1,
                     adamw.beta2, adamw.weight_decay, adamw.max_norm);
}

Table::Cell accuracy_cell(const RunResult& run) {
  if (run.diverged) return fmt::format("diverged at step {}", run.diverged->step);
  return accuracy_percent(run);
}

}  // namespace

std::vector<uint64_t> Seeds::all() const {
  std::vector<uint64_t> seeds;
  for (int64_t i = 0; i < count; ++i) seeds.push_back(first + static_cast<uint64_t>(i));
  return seeds;
}

std::string Seeds::text() const {
  return count == 1 ? std::to_string(first) : fmt::format("{} to {}", first, all().back());
}

std::vector<double> ComparedRuns::over_seeds(
    const std::function<double(const RunResult&)>& number) const {
  std::vector<double> values;
  for (const RunResult& run : runs) values.push_back(number(run));
  return values;
}

int64_t ComparedRuns::diverged() const {
  return std::count_if(runs.begin(), runs.end(),
                       [](const RunResult& run) { return run.diverged.has_value(); });
}

std::string ComparedRuns::text(const std::function<double(const RunResult&)>& number,
                               int decimals) const {
  const int64_t gone = diverged(), all = std::ssize(runs);
  if (gone == all) return "diverged";
  const std::string text = spread_text(over_seeds(number), decimals);
  return gone == 0 ? text : fmt::format("{}, {} of {} diverged", text, gone, all);
}

double Comparison::seconds() const {
  double sum = 0;
  for (const ComparedRuns& m : models) {
    for (const RunResult& run : m.runs) sum += run.training_seconds + run.testing_seconds;
  }
  return sum;
}

std::string Comparison::devices() const {
  std::set<std::string> devices;
  for (const ComparedRuns& m : models) {
    for (const RunResult& run : m.runs) devices.insert(run.device);
  }
  return fmt::format("{}", fmt::join(devices, "; "));
}

Comparison Comparison::best(const std::function<double(const RunResult&)>& figure) const {
  const auto median = [&](const ComparedRuns& m) {
    constexpr double kBelowAny = -1e300;
    std::vector<double> figures = m.over_seeds(figure);
    std::replace_if(
        figures.begin(), figures.end(), [](double f) { return !std::isfinite(f); }, kBelowAny);
    return spread_of(figures).median;
  };
  Comparison kept = {.seeds = seeds, .models = {}};
  for (const ComparedRuns& m : models) {
    const auto rival =
        std::find_if(kept.models.begin(), kept.models.end(), [&](const ComparedRuns& other) {
          return other.what.row == m.what.row && other.what.column == m.what.column;
        });
    if (rival == kept.models.end()) kept.models.push_back(m);
    else if (median(m) > median(*rival)) *rival = m;
  }
  return kept;
}

RunTests tests_to_choose_by(int64_t length, std::shared_ptr<const TokenSource> other) {
  const RunTests shown = held_out_tests(length);
  return {.what = shown.what + ", and others to choose by",
          .count = 2,
          .run = [shown, other = std::move(other)](const LanguageModel& model,
                                                   const TokenSource& source,
                                                   const OnExperimentProgress& progress) {
            std::vector<Evaluation> both = shown.run(model, source, progress);
            both.push_back(shown.run(model, *other, progress).front());
            return both;
          }};
}

Comparison best_learning_rates(const Comparison& comparison) {
  return comparison.best([](const RunResult& run) {
    return run.diverged ? std::numeric_limits<double>::quiet_NaN() : run.tests.at(1).accuracy;
  });
}

Settings run_settings(TrainConfig train, const ModelConfig& model, const std::string& data) {
  train.accumulate = 1;
  Settings all = settings(train, model, data);
  std::erase_if(all, [](const auto& setting) { return setting.first == "steps"; });
  all.emplace_back("steps", fmt::format("{}", train.steps));
  return all;
}

std::string differences(const Settings& here, const Settings& published) {
  const auto value = [](const Settings& of, const std::string& name) {
    const auto at =
        std::find_if(of.begin(), of.end(), [&](const auto& s) { return s.first == name; });
    return at == of.end() || at->second.empty() ? "none" : at->second;
  };
  Settings all = here;
  all.insert(all.end(), published.begin(), published.end());
  std::vector<std::string> texts;
  for (const auto& [name, unused] : all) {
    const std::string ours = value(here, name), theirs = value(published, name);
    const std::string text = fmt::format("{} {} instead of {}", name, ours, theirs);
    const bool told = std::find(texts.begin(), texts.end(), text) != texts.end();
    if (ours != theirs && !told) texts.push_back(text);
  }
  return fmt::format("{}", fmt::join(texts, "; "));
}

std::string run_name(const std::string& name, uint64_t seed) {
  return fmt::format("{}-seed-{}", name, seed);
}

Comparison compare(Device& device, DType activations, const std::vector<ComparedModel>& models,
                   const Seeds& seeds, const std::string& folder,
                   const OnExperimentProgress& progress) {
  std::vector<RunPlan> plans;
  for (const uint64_t seed : seeds.all()) {
    for (const ComparedModel& m : models) {
      plans.push_back({.name = run_name(m.name, seed),
                       .title = fmt::format("{}, {}, seed {}", m.row, m.column, seed),
                       .model = m.model,
                       .train = m.train,
                       .activations = activations,
                       .seed = seed,
                       .source = m.source(seed),
                       .tests = m.tests});
    }
  }
  const std::vector<RunResult> results = run_all(device, plans, folder, progress);
  Comparison comparison = {.seeds = seeds, .models = {}};
  for (const ComparedModel& m : models) comparison.models.push_back({m, {}});
  for (size_t i = 0; i < results.size(); ++i) {
    comparison.models[i % models.size()].runs.push_back(results[i]);
  }
  return comparison;
}

double accuracy_percent(const RunResult& run) {
  return 100 * of_first_test(run, &Evaluation::accuracy);
}

double held_out_loss(const RunResult& run) { return of_first_test(run, &Evaluation::loss); }

Table comparison_table(const Comparison& comparison, const std::string& heading,
                       const std::string& caption,
                       const std::function<double(const RunResult&)>& figure, int decimals,
                       const std::vector<PublishedRow>& published) {
  std::vector<Table::Column> columns = {{heading, Table::Align::left}};
  const auto names = different(comparison, &ComparedModel::column);
  for (const std::string& column : names)
    columns.push_back({column, Table::Align::right, decimals});
  const bool several = comparison.seeds.count > 1;
  Table table(columns, caption + (several ? fmt::format(" Of {} seeds the median, and the least "
                                                        "and the largest in brackets.",
                                                        comparison.seeds.count)
                                          : ""));
  for (const PublishedRow& p : published) {
    std::vector<Table::Cell> cells = {p.row};
    cells.insert(cells.end(), p.figures.begin(), p.figures.end());
    table.add_row(std::move(cells));
  }
  for (const std::string& row : different(comparison, &ComparedModel::row)) {
    std::vector<Table::Cell> cells = {row};
    for (const std::string& column : names) {
      const ComparedRuns* m = find(comparison, row, column);
      cells.emplace_back(m ? m->text(figure, decimals) : std::string("–"));
    }
    table.add_row(std::move(cells));
  }
  return table;
}

Table runs_table(const Comparison& comparison) {
  Table table({{"model", Table::Align::left},
               {"task", Table::Align::left},
               {"learning rate"},
               {"seed"},
               {"layers"},
               {"parameters"},
               {"steps", Table::Align::left},
               {"accuracy, %", Table::Align::right, 2},
               {"held-out loss", Table::Align::right, 4},
               {"training loss", Table::Align::right, 4},
               {"training, s", Table::Align::right, 0},
               {"device", Table::Align::left}},
              "Every run. Steps: those asked for, by the length of their sequences. Training loss: "
              "mean of the last 50 of them.");
  for (const ComparedRuns& m : comparison.models) {
    for (size_t i = 0; i < m.runs.size(); ++i) {
      const RunResult& run = m.runs[i];
      table.add_row({m.what.row, m.what.column, fmt::format("{}", m.what.train.schedule.peak_lr),
                     std::to_string(comparison.seeds.first + i), m.what.model.n_layers,
                     run.parameters, steps_text(m.what.train), accuracy_cell(run),
                     held_out_loss(run), run.final_loss(), run.training_seconds, run.device});
    }
  }
  return table;
}

std::string steps_text(const TrainConfig& train) {
  std::string text;
  int64_t steps = 0;
  for (const Phase& phase : train.curriculum) {
    text += fmt::format("{} of {}, ", phase.steps, phase.length);
    steps += phase.steps;
  }
  return text + fmt::format("{} of {}", train.steps - steps, train.length);
}

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

Plot loss_curves(const Comparison& comparison, const std::string& column) {
  Plot plot(fmt::format("Loss while training, {}", column), {"step"},
            {"cross-entropy of a target, nats"});
  for (const ComparedRuns& m : comparison.models) {
    if (m.what.column != column) continue;
    const std::vector<double>& losses = m.runs.front().losses;
    std::vector<double> steps;
    for (int64_t i = 0; i < std::ssize(losses); ++i) steps.push_back(static_cast<double>(i + 1));
    const int64_t window = std::max<int64_t>(1, std::ssize(losses) / 100);
    plot.add({m.what.row, steps, smoothed(losses, window)});
  }
  return plot;
}

Report::Facts training_facts(const Comparison& comparison) {
  const auto of_train = [&](auto&& value) {
    return distinct(comparison, [&](const ComparedModel& m) { return value(m.train); });
  };
  return {
      {"Steps", of_train([](const TrainConfig& t) { return t.steps; })},
      {"Tokens a step", of_train([](const TrainConfig& t) { return t.batch_tokens; })},
      {"Lengths of sequences", of_train([](const TrainConfig& t) {
         return fmt::format("{}", fmt::join(t.lengths(), " "));
       })},
      {"Optimiser", fmt::format("AdamW, learning rate {}, {}",
                                of_train([](const TrainConfig& t) { return t.schedule.peak_lr; }),
                                of_train([](const TrainConfig& t) { return text_of(t.adamw); }))},
      {"Layers", distinct(comparison, [](const ComparedModel& m) { return m.model.n_layers; })},
      {"Seeds", comparison.seeds.text()},
      {"Device", comparison.devices()},
      {"Training and testing", fmt::format("{:.0f} s", comparison.seconds())},
  };
}

std::string comparison_json(const Comparison& comparison, const std::string& name,
                            const std::string& unlike_published) {
  JsonWriter json;
  json.begin_object().field("experiment", name).key("rows").begin_array();
  for (const ComparedRuns& m : comparison.models) {
    for (size_t i = 0; i < m.runs.size(); ++i) {
      const RunResult& run = m.runs[i];
      json.begin_object()
          .field("model", m.what.row)
          .field("mixer", name_of(m.what.model.mixer))
          .field("task", m.what.column)
          .field("d_model", m.what.model.d_model)
          .field("n_layers", m.what.model.n_layers)
          .field("parameters", run.parameters)
          .field("seed", comparison.seeds.first + i)
          .field("steps", m.what.train.steps)
          .field("lengths", m.what.train.lengths())
          .field("peak_lr", m.what.train.schedule.peak_lr)
          .field("device", run.device);
      if (run.diverged) {
        json.field("diverged_at_step", run.diverged->step).field("reason", run.diverged->reason);
      } else {
        json.field("length", run.tests.front().length)
            .field("accuracy", run.tests.front().accuracy)
            .field("held_out_loss", held_out_loss(run))
            .field("targets", run.tests.front().targets);
      }
      json.field("training_loss", run.final_loss())
          .field("training_seconds", run.training_seconds)
          .end_object();
    }
  }
  json.end_array().key("settings").begin_object();
  for (const auto& [fact, value] : training_facts(comparison)) json.field(fact, value);
  return json.end_object()
      .field("unlike_published", unlike_published)
      .field("seconds", comparison.seconds())
      .end_object()
      .text();
}

}  // namespace elapse

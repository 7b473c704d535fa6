// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/experiments/runs.h"
#include "elapse/report/plot.h"
#include "elapse/report/report.h"
#include "elapse/report/table.h"

// What experiments have in common that train several models from several seeds and set them beside
// each other.
namespace elapse {

// One cell of the table: a model trained on one task, or one text.
struct ComparedModel {
  std::string name;    // of its runs' folders: "mamba-64"
  std::string row;     // of the table: "Mamba"
  std::string column;  // "64 tokens, 4 pairs"
  ModelConfig model;
  TrainConfig train;
  std::function<std::shared_ptr<const TokenSource>(uint64_t seed)> source;
  RunTests tests;
};

// Of seed `first`, first + 1, ...
struct Seeds {
  uint64_t first = 1;
  int64_t count = 1;

  std::vector<uint64_t> all() const;
  std::string text() const;  // "1", "1 to 3"
};

struct ComparedRuns {
  ComparedModel what;
  std::vector<RunResult> runs;  // (seeds)

  std::vector<double> over_seeds(const std::function<double(const RunResult&)>& number) const;
  // spread_text of it, and how many runs diverged: "diverged", "98.4 [97.0, 99.1], 1 of 3
  // diverged".
  std::string text(const std::function<double(const RunResult&)>& number, int decimals) const;
  int64_t diverged() const;  // runs
};

struct Comparison {
  Seeds seeds;
  std::vector<ComparedRuns> models;  // in the order they were given

  double seconds() const;       // of training and testing, all runs together
  std::string devices() const;  // those that runs were made on
  // Of the models of one row and column the one whose median figure is largest: of several learning
  // rates the best. A run that diverged counts below any other.
  Comparison best(const std::function<double(const RunResult&)>& figure) const;
};

// held_out_tests of the run's own source, which are shown, and as many of `other` to choose by.
RunTests tests_to_choose_by(int64_t length, std::shared_ptr<const TokenSource> other);
// Comparison::best by the accuracy of the second of those: the learning rates of what is shown are
// not chosen on it.
Comparison best_learning_rates(const Comparison& comparison);
// The seed of `other` where sources are drawn.
inline constexpr uint64_t kSeedToChooseBy = uint64_t{1} << 63;

// Everything that a training's numbers depend on, the steps included: not in how many passes a
// step's sequences are taken.
Settings run_settings(TrainConfig train, const ModelConfig& model, const std::string& data);
// "length 64 instead of 4096; steps 4000 instead of 400000"; empty where all are alike.
std::string differences(const Settings& here, const Settings& published);

std::string run_name(const std::string& name, uint64_t seed);  // "mamba-64-seed-1"

// Every model from every seed, the first seed's before the second's. Folders and progress: runs.h.
Comparison compare(Device& device, DType activations, const std::vector<ComparedModel>& models,
                   const Seeds& seeds, const std::string& folder,
                   const OnExperimentProgress& progress);

// Of the first test; NaN of a run that diverged.
double accuracy_percent(const RunResult& run);
double held_out_loss(const RunResult& run);  // nats

// A published row: a name, and a figure a column; NaN: not published.
struct PublishedRow {
  std::string row;
  std::vector<double> figures;
};

// Rows and columns in the order they come first, the published rows above: a figure of each model,
// over seeds its median with the least and the largest.
Table comparison_table(const Comparison& comparison, const std::string& heading,
                       const std::string& caption,
                       const std::function<double(const RunResult&)>& figure, int decimals,
                       const std::vector<PublishedRow>& published = {});

// Row, column, learning rate, seed, layers, parameters, steps, accuracy or the step at which it
// diverged, losses, seconds and device of every run.
Table runs_table(const Comparison& comparison);

std::string steps_text(const TrainConfig& train);  // "60 of 16, 40 of 256": of so many tokens

// Of each value the mean with those before it, `window` of them together.
std::vector<double> smoothed(const std::vector<double>& values, int64_t window);

// The losses of one column's first seed, smoothed over a hundredth of the steps.
Plot loss_curves(const Comparison& comparison, const std::string& column);

// What is alike in all runs, and of what differs the values that there are.
Report::Facts training_facts(const Comparison& comparison);

// {"experiment": name, "rows": [...], "settings": {...}, "seconds": ...}
std::string comparison_json(const Comparison& comparison, const std::string& name,
                            const std::string& unlike_published);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/App.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "elapse/experiments/comparison.h"
#include "elapse/model/config.h"
#include "elapse/report/report.h"

// What the experiments below `elapse experiment` share: their options, their progress, and the
// files they end in.
namespace elapse {

// What every experiment is told.
struct ExperimentOptions {
  explicit ExperimentOptions(std::string folder) : out(std::move(folder)) {}

  uint64_t seed = 1;
  std::string out;
  std::string device = "cpu";
  std::string dtype = "f32";  // where models are language models
  int threads = 0;
};

void add_options(CLI::App& experiment, ExperimentOptions& options, const std::string& of_seed,
                 const std::string& in_folder);

// For what an experiment leaves: its own folder is written anew, another's model is not replaced.
void make_folder(const std::string& out);

void write_text(const std::string& out, const std::string& name, const std::string& text);
// result.json and report.html.
void write_results(const std::string& out, const std::string& json, const Report& report);
std::string report_path(const std::string& out);  // absolute

// With a warm-up that is no longer than they are.
void set_steps(TrainConfig& train, int64_t steps);

void print_tables(const std::vector<Table>& tables);

// What makes the training experiments below alike: which mixers, and how many seeds.
struct ComparisonOptions : ExperimentOptions {
  ComparisonOptions(std::string folder, std::vector<std::string> first)
      : ExperimentOptions(std::move(folder)), mixers(std::move(first)) {}

  std::vector<std::string> mixers;
  std::vector<std::string> offered = mixer_names();  // to choose from; "all" are these
  int64_t seeds = 1;

  std::vector<MixerKind> mixer_kinds() const;
  Seeds all_seeds() const { return {seed, seeds}; }
};
void add_mixers_option(CLI::App& experiment, ComparisonOptions& options);
void add_seeds_option(CLI::App& experiment, ComparisonOptions& options);
// What Ctrl-C leaves of them, in words.
inline constexpr const char* kRunsAreSaved =
    "finished runs and what was trained of this one are kept, and the same command goes on";

// A progress line for each stage of an experiment; Ctrl-C ends it, and says what came of the work.
class StageProgress {
 public:
  explicit StageProgress(std::string outcome = "nothing was written")
      : outcome_(std::move(outcome)) {}

  void operator()(const ExperimentProgress& now);
  void end() { line_.reset(); }

 private:
  std::string outcome_;
  Interrupt interrupt_;
  std::string stage_;
  std::unique_ptr<Progress> line_;
};

}  // namespace elapse

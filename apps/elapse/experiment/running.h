// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "elapse/experiments/progress.h"
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

void print_tables(const std::vector<Table>& tables);

// A progress line for each stage of an experiment; Ctrl-C ends it.
class StageProgress {
 public:
  void operator()(const ExperimentProgress& now);
  void end() { line_.reset(); }

 private:
  Interrupt interrupt_;
  std::string stage_;
  std::unique_ptr<Progress> line_;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/experiment/running.h"

#include <fmt/core.h>

#include <algorithm>

#include "apps/elapse/checks.h"
#include "elapse/io/file.h"
#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResult = "result.json";

void refuse_to_overwrite(const fs::path& folder) {
  if (file_exists((folder / kResult).string())) return;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none)) {
    ELAPSE_CHECK(
        !is_checkpoint_file(entry.path().filename().string()),
        "{}: expected a folder without a model, or an experiment's with {}, found this; it "
        "would be replaced",
        entry.path().string(), kResult);
  }
}

}  // namespace

void add_options(CLI::App& experiment, ExperimentOptions& options, const std::string& of_seed,
                 const std::string& in_folder) {
  experiment.add_option("--seed", options.seed, "of " + of_seed)
      ->check(seed())
      ->capture_default_str();
  experiment.add_option("--out", options.out, "folder for " + in_folder)
      ->check(not_empty())
      ->capture_default_str();
  experiment.add_option("--device", options.device, "cpu, ref or cuda")->capture_default_str();
  experiment.add_option("--threads", options.threads, "0: every processor")
      ->capture_default_str()
      ->check(whole_number(0, 1024));
}

void make_folder(const std::string& out) {
  std::error_code error;
  fs::create_directories(out, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", out, error.message());
  refuse_to_overwrite(out);
  check_writable((fs::path(out) / "report.html").string());
}

void write_text(const std::string& out, const std::string& name, const std::string& text) {
  write_file_atomically((fs::path(out) / name).string(),
                        [&](FileWriter& file) { file.write(text); });
}

void write_results(const std::string& out, const std::string& json, const Report& report) {
  write_text(out, kResult, json);
  write_text(out, "report.html", report.html());
}

std::string report_path(const std::string& out) {
  return fs::absolute(fs::path(out) / "report.html").string();
}

void set_steps(TrainConfig& train, int64_t steps) {
  train.steps = steps;
  train.schedule.warmup_steps = std::min(train.schedule.warmup_steps, steps);
}

void print_tables(const std::vector<Table>& tables) {
  for (const Table& table : tables) fmt::print("\n{}", table.text());
}

std::vector<MixerKind> ComparisonOptions::mixer_kinds() const {
  std::vector<MixerKind> kinds;
  for (const std::string& name : mixers) {
    for (const std::string& known : offered) {
      if (name != known && name != "all") continue;
      const MixerKind kind = mixer_named(known);
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    }
  }
  return kinds;
}

void add_mixers_option(CLI::App& experiment, ComparisonOptions& options) {
  std::vector<std::string> names = options.offered;
  names.push_back("all");
  experiment
      .add_option("--mixer", options.mixers,
                  "what mixes tokens; several with commas between, or all")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::IsMember(names));
}

void add_seeds_option(CLI::App& experiment, ComparisonOptions& options) {
  experiment
      .add_option("--seeds", options.seeds,
                  "how many seeds from --seed on; several give medians and ranges")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
}

void StageProgress::operator()(const ExperimentProgress& now) {
  if (interrupt_.asked()) {
    interrupt_.end("interrupted during \"{}\", at {} of {}: {}", now.stage, now.done, now.total,
                   outcome_);
  }
  if (now.stage != stage_) {
    line_.reset();  // ends the line of the stage before
    line_ = std::make_unique<Progress>(now.stage, 0, now.total);
    stage_ = now.stage;
  }
  line_->update(now.done, now.note);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "apps/elapse/verbs.h"
#include "elapse/experiments/induction.h"
#include "elapse/io/file.h"
#include "elapse/model/checkpoint.h"
#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResult = "result.json";

struct Arguments {
  bool quick = false;
  std::string mixer = "mamba";
  std::optional<int64_t> steps;
  uint64_t seed = 1;
  std::string out = "out/induction";
  std::string device = "cpu";
  int threads = 0;
};

// A progress line for each stage of an experiment; Ctrl-C ends it.
class StageProgress {
 public:
  void operator()(const ExperimentProgress& now) {
    if (interrupt_.asked()) {
      interrupt_.end("interrupted during \"{}\", at {} of {}: nothing was written", now.stage,
                     now.done, now.total);
    }
    if (now.stage != stage_) {
      line_.reset();  // ends the line of the stage before
      line_ = std::make_unique<Progress>(now.stage, 0, now.total);
      stage_ = now.stage;
    }
    line_->update(now.done, now.note);
  }
  void end() { line_.reset(); }

 private:
  Interrupt interrupt_;
  std::string stage_;
  std::unique_ptr<Progress> line_;
};

void write_file(const fs::path& path, const std::string& text) {
  write_file_atomically(path.string(), [&](FileWriter& file) { file.write(text); });
}

InductionSettings settings_of(const Arguments& args) {
  InductionSettings settings = args.quick ? InductionSettings::quick() : InductionSettings::full();
  if (args.mixer == "mamba2") settings.model = InductionSettings::model_of(MixerKind::mamba2);
  settings.seed = args.seed;
  if (args.steps) settings.train.steps = *args.steps;
  settings.train.check();
  return settings;
}

// An experiment's own folder is written anew; another's model is not replaced.
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

void induction(const Arguments& args) {
  const InductionSettings settings = settings_of(args);
  std::error_code error;
  fs::create_directories(args.out, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", args.out, error.message());
  refuse_to_overwrite(args.out);
  check_writable((fs::path(args.out) / "report.html").string());
  Device device(args.device, args.threads);
  fmt::print(
      "Induction heads: a {} of {} layers, d_model {}, trained for {} steps at lengths up to {}.\n",
      settings.model.mixer == MixerKind::mamba ? "Mamba" : "Mamba-2", settings.model.n_layers,
      settings.model.d_model, settings.train.steps, settings.longest_trained());
  std::fflush(stdout);
  StageProgress progress;
  const InductionRun run =
      run_induction(device, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();

  const fs::path out = args.out;
  write_file(out / kResult, induction_json(settings, run.result));
  save_model(*run.model, args.out);
  write_file(out / "accuracy.svg", standalone_svg(induction_accuracy_plot(settings, run.result)));
  write_file(out / "report.html", induction_report(settings, run.result).html());
  fmt::print("\n{}\n", induction_table(settings, run.result).text());
  const std::string unlike = settings.unlike_published();
  if (!unlike.empty()) fmt::print("{}\n", unlike);
  fmt::print("Trained in {}, tested in {}. The pictures: {}\n",
             clock_text(run.result.training_seconds), clock_text(run.result.testing_seconds),
             fs::absolute(out / "report.html").string());
}

}  // namespace

void add_experiment_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand(
      "experiment", "Reproduce a published result: train, measure, print it beside the original");
  verb->footer("Example: elapse experiment induction --quick --out out/induction");
  verb->require_subcommand(1);
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb->add_subcommand(
      "induction",
      "Induction heads (Gu and Dao, 2023, Table 11): learn to recall the token that followed a "
      "special one, and be tested at lengths 2^6 ... 2^20");
  CLI::Option* quick = task->add_flag("--quick", args->quick,
                                      "a few minutes on two cores instead of the published run");
  task->add_option("--steps", args->steps, "training steps, instead of the published 204800")
      ->check(whole_number(1))
      ->excludes(quick);
  task->add_option("--mixer", args->mixer, "mamba (the published one) or mamba2")
      ->capture_default_str()
      ->check(CLI::IsMember({"mamba", "mamba2"}));
  task->add_option("--seed", args->seed, "of the initialisation and the data")
      ->check(seed())
      ->capture_default_str();
  task->add_option("--out", args->out,
                   "folder for report.html, result.json, accuracy.svg and the trained model")
      ->check(not_empty())
      ->capture_default_str();
  task->add_option("--device", args->device, "cpu or ref")->capture_default_str();
  task->add_option("--threads", args->threads, "0: every processor")
      ->capture_default_str()
      ->check(whole_number(0, 1024));
  task->footer(
      "The published run is 204800 steps; --quick reduces it and says how.\n"
      "Example: elapse experiment induction --quick --out out/induction");
  task->callback([args] { induction(*args); });
}

}  // namespace elapse

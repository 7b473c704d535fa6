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
#include "elapse/experiments/induction_circuit.h"
#include "elapse/experiments/ioi.h"
#include "elapse/experiments/universal_and.h"
#include "elapse/io/file.h"
#include "elapse/model/checkpoint.h"
#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResult = "result.json";

// What every experiment is told.
struct Common {
  explicit Common(std::string folder) : out(std::move(folder)) {}

  uint64_t seed = 1;
  std::string out;
  std::string device = "cpu";
  int threads = 0;
};

void add_common(CLI::App& task, Common& args, const std::string& of_seed,
                const std::string& in_folder) {
  task.add_option("--seed", args.seed, "of " + of_seed)->check(seed())->capture_default_str();
  task.add_option("--out", args.out, "folder for " + in_folder)
      ->check(not_empty())
      ->capture_default_str();
  task.add_option("--device", args.device, "cpu or ref")->capture_default_str();
  task.add_option("--threads", args.threads, "0: every processor")
      ->capture_default_str()
      ->check(whole_number(0, 1024));
}

struct Arguments : Common {
  Arguments() : Common("out/induction") {}
  bool quick = false;
  std::string mixer = "mamba";
  std::optional<int64_t> steps;
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

// For what an experiment leaves.
void make_folder(const std::string& out) {
  std::error_code error;
  fs::create_directories(out, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", out, error.message());
  refuse_to_overwrite(out);
  check_writable((fs::path(out) / "report.html").string());
}

InductionSettings settings_of(const Arguments& args) {
  InductionSettings settings = args.quick ? InductionSettings::quick() : InductionSettings::full();
  if (args.mixer == "mamba2") settings.model = InductionSettings::model_of(MixerKind::mamba2);
  settings.seed = args.seed;
  if (args.steps) settings.train.steps = *args.steps;
  settings.train.check();
  return settings;
}

void induction(const Arguments& args) {
  const InductionSettings settings = settings_of(args);
  make_folder(args.out);
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

struct CircuitArguments : Common {
  CircuitArguments() : Common("out/induction-circuit") {}
  std::string model;
  InductionCircuitSettings settings;
};

void induction_circuit(const CircuitArguments& args) {
  InductionCircuitSettings settings = args.settings;
  settings.seed = args.seed;
  make_folder(args.out);
  Device device(args.device, args.threads);
  const auto model = load_model(device, args.model, DType::f32, WeightMemory::mapped);
  StageProgress progress;
  const InductionCircuit found = run_induction_circuit(
      *model, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  const fs::path out = args.out;
  write_file(out / kResult, induction_circuit_json(found));
  write_file(out / "report.html", induction_circuit_report(settings, found).html());
  fmt::print("The model answers {:.1f} % of {} sequences of {} tokens.\n", 100 * found.accuracy,
             settings.sequences, settings.length);
  const std::vector<Table> tables = induction_circuit_tables(found);
  if (tables.empty()) fmt::print("That is too little to take it apart.\n");
  for (const Table& table : tables) fmt::print("\n{}", table.text());
  fmt::print("\nThe pictures: {}\n", fs::absolute(out / "report.html").string());
}

void add_induction_circuit(CLI::App& verb) {
  auto args = std::make_shared<CircuitArguments>();
  CLI::App* task = verb.add_subcommand(
      "induction-circuit",
      "Take apart the model that `experiment induction` trained: where it keeps the answer, and "
      "which hypotheses of its circuit survive causal scrubbing");
  task->add_option("-m,--model", args->model, "folder of the trained model")
      ->required()
      ->check(not_empty());
  task->add_option("--length", args->settings.length, "tokens of a sequence")
      ->check(whole_number(9, 65536))
      ->capture_default_str();
  task->add_option("--sequences", args->settings.sequences, "held-out sequences")
      ->check(whole_number(2, 4096))
      ->capture_default_str();
  add_common(*task, *args, "the sequences and the draws", "report.html and result.json");
  task->footer("Example: elapse experiment induction-circuit -m out/induction");
  task->callback([args] { induction_circuit(*args); });
}

struct IoiArguments : Common {
  IoiArguments() : Common("out/ioi") {}
  std::optional<int64_t> steps;
  std::string lists;
};

void ioi(const IoiArguments& args) {
  IoiSettings settings = IoiSettings::quick(
      args.lists.empty() ? IoiLists::own() : IoiLists::parse(read_text(args.lists), args.lists));
  settings.seed = args.seed;
  if (args.steps) settings.train.steps = *args.steps;
  settings.train.check();
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print("Indirect-object identification: a Mamba of {} layers, d_model {}, {} steps.\n",
             settings.model.n_layers, settings.model.d_model, settings.train.steps);
  std::fflush(stdout);
  StageProgress progress;
  const IoiRun run =
      run_ioi(device, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  const fs::path out = args.out;
  write_file(out / kResult, ioi_json(settings, run.result));
  save_model(*run.model, args.out);
  write_file(out / "report.html", ioi_report(settings, run.result).html());
  for (const Table& table : ioi_tables(run.result)) fmt::print("\n{}", table.text());
  fmt::print("\nTrained in {}, inspected in {}. The pictures: {}\n",
             clock_text(run.result.training_seconds), clock_text(run.result.inspecting_seconds),
             fs::absolute(out / "report.html").string());
}

void add_ioi(CLI::App& verb) {
  auto args = std::make_shared<IoiArguments>();
  CLI::App* task = verb.add_subcommand(
      "ioi",
      "Indirect-object identification (Wang et al., 2022): train a model to it, find its circuit, "
      "knock it out by means and by resampling, and fool it");
  task->add_option("--steps", args->steps, "training steps")->check(whole_number(1));
  task->add_option("--lists", args->lists,
                   "JSON with templates, names, places and objects, in place of elapse's own")
      ->type_name("FILE")
      ->check(not_empty());
  add_common(*task, *args, "the initialisation and the data",
             "report.html, result.json and the trained model");
  task->footer("Example: elapse experiment ioi --out out/ioi");
  task->callback([args] { ioi(*args); });
}

struct UniversalAndArguments : Common {
  UniversalAndArguments() : Common("out/universal-and") {}
  UniversalAndSettings settings;
  std::string target = "and", loss = "by-class";
};

PairLoss loss_of(const std::string& name) {
  if (name == "together") return PairLoss::together;
  return name == "by-truth" ? PairLoss::by_truth : PairLoss::by_class;
}

void universal_and(const UniversalAndArguments& args) {
  UniversalAndSettings settings = args.settings;
  settings.seed = args.seed;
  settings.net.target = args.target == "xor" ? PairTarget::xor_ : PairTarget::and_;
  settings.net.loss = loss_of(args.loss);
  settings.check();
  make_folder(args.out);
  Device device(args.device, args.threads);
  StageProgress progress;
  const UniversalAndResult result =
      run_universal_and(device, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  const fs::path out = args.out;
  write_file(out / kResult, universal_and_json(settings, result));
  write_file(out / "report.html", universal_and_report(settings, result).html());
  for (const Table& table : universal_and_tables(settings, result)) {
    fmt::print("\n{}", table.text());
  }
  fmt::print("\nConstruction in {}, read-outs in {}, nets in {}. The pictures: {}\n",
             clock_text(result.construction_seconds), clock_text(result.readout_seconds),
             clock_text(result.training_seconds), fs::absolute(out / "report.html").string());
}

void add_universal_and(CLI::App& verb) {
  auto args = std::make_shared<UniversalAndArguments>();
  CLI::App* task = verb.add_subcommand(
      "universal-and",
      "Universal AND (Vaintrob, Mendel and Hänni, 2024): every pair's AND out of one layer, beside "
      "the law of its error; the same of layers drawn at random and of trained nets");
  task->add_option("--seeds", args->settings.seeds,
                   "how many seeds from --seed on; several give medians and ranges")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  task->add_option("--target", args->target, "what the nets are trained to: and, xor")
      ->capture_default_str()
      ->check(CLI::IsMember({"and", "xor"}));
  task->add_option("--loss", args->loss,
                   "what they are trained by: by-class, mean squared errors with both, one and "
                   "neither on; or the authors', together or by-truth, root mean squares")
      ->capture_default_str()
      ->check(CLI::IsMember({"by-class", "together", "by-truth"}));
  task->add_option("--pairs", args->settings.net.targets,
                   "pairs that they are trained to; 0: all 19900")
      ->capture_default_str()
      ->check(whole_number(0, 19900));
  task->add_option("--steps", args->settings.net.steps, "training steps of 100 inputs")
      ->capture_default_str()
      ->check(whole_number(1));
  add_common(*task, *args, "every draw", "report.html and result.json");
  task->footer("Example: elapse experiment universal-and --seeds 3 --out out/universal-and");
  task->callback([args] { universal_and(*args); });
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
  add_common(*task, *args, "the initialisation and the data",
             "report.html, result.json, accuracy.svg and the trained model");
  task->footer(
      "The published run is 204800 steps; --quick reduces it and says how.\n"
      "Example: elapse experiment induction --quick --out out/induction");
  task->callback([args] { induction(*args); });
  add_induction_circuit(*verb);
  add_ioi(*verb);
  add_universal_and(*verb);
}

}  // namespace elapse

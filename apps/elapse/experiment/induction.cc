// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction.h"

#include <fmt/core.h>

#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

struct Arguments : ExperimentOptions {
  Arguments() : ExperimentOptions("out/induction") {}
  bool quick = false;
  std::string mixer = "mamba";
  std::optional<int64_t> steps;
};

InductionSettings settings_of(const Arguments& args) {
  InductionSettings settings = args.quick ? InductionSettings::quick() : InductionSettings::full();
  settings.model = InductionSettings::model_of(mixer_named(args.mixer));
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
      "Induction heads: {}, {} layers, d_model {}, trained for {} steps at lengths up to {}.\n",
      title_of(settings.model.mixer), settings.model.n_layers, settings.model.d_model,
      settings.train.steps, settings.longest_trained());
  std::fflush(stdout);
  StageProgress progress;
  const InductionRun run =
      run_induction(device, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();

  write_results(args.out, induction_json(settings, run.result),
                induction_report(settings, run.result));
  save_model(*run.model, args.out);
  write_text(args.out, "accuracy.svg",
             standalone_svg(induction_accuracy_plot(settings, run.result)));
  fmt::print("\n{}\n", induction_table(settings, run.result).text());
  const std::string unlike = settings.unlike_published();
  if (!unlike.empty()) fmt::print("{}\n", unlike);
  fmt::print("Trained in {}, tested in {}. The pictures: {}\n",
             clock_text(run.result.training_seconds), clock_text(run.result.testing_seconds),
             report_path(args.out));
}

}  // namespace

void add_experiment_induction(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "induction",
      "Induction heads (Gu and Dao, 2023, Table 11): learn to recall the token that followed a "
      "special one, and be tested at lengths 2^6 ... 2^20");
  CLI::Option* quick = task->add_flag("--quick", args->quick,
                                      "a few minutes on two cores instead of the published run");
  task->add_option("--steps", args->steps, "training steps, instead of the published 204800")
      ->check(whole_number(1))
      ->excludes(quick);
  task->add_option("--mixer", args->mixer, "mamba (the published one), mamba2, rnn, lstm or gru")
      ->capture_default_str()
      ->check(CLI::IsMember(mixer_names()));
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json, accuracy.svg and the trained model");
  task->footer(
      "The published run is 204800 steps; --quick reduces it and says how.\n"
      "Example: elapse experiment induction --quick --out out/induction");
  task->callback([args] { induction(*args); });
}

}  // namespace elapse

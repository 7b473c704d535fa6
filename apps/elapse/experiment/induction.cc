// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction.h"

#include <fmt/core.h>

#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/induction", {"mamba"}) {}
  bool quick = false;
  std::optional<int64_t> steps;
  std::optional<double> peak_lr;
};

InductionSettings settings_of(const Arguments& args) {
  InductionSettings settings = args.quick ? InductionSettings::quick() : InductionSettings::full();
  settings.models.clear();
  for (const MixerKind mixer : args.mixer_kinds()) {
    settings.models.push_back(InductionSettings::model_of(mixer));
  }
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  if (args.steps) settings.train.steps = *args.steps;
  if (args.peak_lr) {
    Schedule& schedule = settings.train.schedule;
    schedule.min_lr *= *args.peak_lr / schedule.peak_lr;
    schedule.peak_lr = *args.peak_lr;
  }
  settings.train.check();
  return settings;
}

void induction(const Arguments& args) {
  const InductionSettings settings = settings_of(args);
  make_folder(args.out);
  Device device(args.device, args.threads);
  const ModelConfig& first = settings.models.front();
  fmt::print(
      "Induction heads: {}{}, {} layers, d_model {}, trained for {} steps at lengths up to "
      "{}.\n",
      title_of(first.mixer),
      settings.models.size() == 1 ? ""
                                  : fmt::format(" and {} more models", settings.models.size() - 1),
      first.n_layers, first.d_model, settings.train.steps, longest_trained(settings.train));
  std::fflush(stdout);
  StageProgress progress(kRunsAreSaved);
  const InductionResult result = run_induction(
      device, settings, args.out, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();

  write_results(args.out, induction_json(settings, result), induction_report(settings, result));
  const std::string model = induction_model_folder(settings, args.out);
  for (const char* file : {"config.json", "model.safetensors"}) {
    const auto of = [&](const std::string& folder) {
      return (std::filesystem::path(folder) / file).string();
    };
    copy_file(of(model), of(args.out));
  }
  write_text(args.out, "accuracy.svg", standalone_svg(induction_accuracy_plot(settings, result)));
  fmt::print("\n{}\n", induction_table(settings, result).text());
  const std::string unlike = settings.unlike_published();
  if (!unlike.empty()) fmt::print("{}\n", unlike);
  fmt::print("Trained and tested in {}. The pictures: {}\n",
             clock_text(result.comparison.seconds()), report_path(args.out));
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
  task->add_option("--lr", args->peak_lr, "peak learning rate")
      ->default_str("0.001; 0.002 with --quick")
      ->check(CLI::PositiveNumber);
  add_mixers_option(*task, *args);
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(
      *task, *args, "the initialisation and the data",
      "report.html, result.json, accuracy.svg, the first trained model, and below runs/ all");
  task->footer(
      "The published run is 204800 steps; --quick reduces it and says how. A run that was stopped "
      "goes on where it was, and one that is finished is not run again: remove --out for that.\n"
      "Example: elapse experiment induction --quick --out out/induction");
  task->callback([args] { induction(*args); });
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/selective_copying.h"

#include <fmt/core.h>

#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/selective-copying", {"all"}) {}
  bool quick = false;
  std::optional<int64_t> length, steps;
  std::vector<double> peak_lrs;
};

SelectiveCopyingSettings settings_of(const Arguments& args) {
  SelectiveCopyingSettings settings =
      args.quick ? SelectiveCopyingSettings::quick() : SelectiveCopyingSettings::full();
  settings.mixers = args.mixer_kinds();
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  if (args.length) {
    settings.train.batch_tokens = settings.train.sequences(settings.length) * *args.length;
    settings.length = settings.train.length = *args.length;
  }
  if (args.steps) set_steps(settings.train, *args.steps);
  if (!args.peak_lrs.empty()) settings.peak_lrs = args.peak_lrs;
  settings.train.check();
  return settings;
}

void selective_copying(const Arguments& args) {
  const SelectiveCopyingSettings settings = settings_of(args);
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print(
      "Selective copying: {} models of {} layers, d_model {}, {} of {} tokens to repeat, {} "
      "steps, {} seeds.\n",
      settings.mixers.size(), settings.n_layers, settings.d_model, settings.data_tokens,
      settings.length, settings.train.steps, settings.seeds.count);
  std::fflush(stdout);
  StageProgress progress(kRunsAreSaved);
  const Comparison comparison = run_selective_copying(
      device, settings, args.out, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  const std::string unlike = settings.unlike_published();
  write_results(args.out, comparison_json(comparison, "selective-copying", unlike),
                selective_copying_report(settings, comparison));
  print_tables({selective_copying_table(comparison)});
  if (!unlike.empty()) fmt::print("\n{}\n", unlike);
  fmt::print("\nTrained and tested in {}. The pictures: {}\n", clock_text(comparison.seconds()),
             report_path(args.out));
}

}  // namespace

void add_experiment_selective_copying(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "selective-copying",
      "Selective copying (Gu and Dao, 2023, Table 1): learn to repeat the tokens that stood among "
      "noise, which a memory that treats every token alike cannot");
  task->add_flag("--quick", args->quick,
                 "sequences of 64 tokens, a few minutes a mixer on two cores, instead of the "
                 "published run");
  task->add_option("--length", args->length, "tokens of a sequence, markers included")
      ->check(whole_number(32, 1 << 20));
  task->add_option("--steps", args->steps, "training steps")->check(whole_number(1));
  task->add_option("--lr", args->peak_lrs,
                   "peak learning rates, with commas between; each model shows its best")
      ->type_name("LIST")
      ->delimiter(',')
      ->default_str("0.001,0.005; 0.0001 without --quick")
      ->check(CLI::PositiveNumber);
  add_mixers_option(*task, *args);
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json and, below runs/, the trained models");
  task->footer(
      "A run that was stopped goes on where it was, and one that is finished is not run again: "
      "remove --out for that.\n"
      "Example: elapse experiment selective-copying --quick --out out/selective-copying");
  task->callback([args] { selective_copying(*args); });
}

}  // namespace elapse

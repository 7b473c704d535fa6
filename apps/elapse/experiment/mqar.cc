// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/mqar.h"

#include <fmt/core.h>

#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/mqar", {"all"}) {}
  bool quick = false;
  std::optional<int64_t> steps, sequences;
  std::vector<double> peak_lrs;
};

MqarSettings settings_of(const Arguments& args) {
  MqarSettings settings = args.quick ? MqarSettings::quick() : MqarSettings::full();
  settings.mixers = args.mixer_kinds();
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  if (args.steps) set_steps(settings.train, *args.steps);
  if (args.sequences) settings.sequences = *args.sequences;
  if (!args.peak_lrs.empty()) settings.peak_lrs = args.peak_lrs;
  return settings;
}

void mqar(const Arguments& args) {
  const MqarSettings settings = settings_of(args);
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print(
      "Multi-query associative recall: {} mixers, {} layers, {} sizes, {} widths, {} learning "
      "rates, {} "
      "steps, {} seeds.\n",
      settings.mixers.size(), settings.n_layers, settings.sizes.size(), settings.d_models.size(),
      settings.peak_lrs.size(), settings.train.steps, settings.seeds.count);
  std::fflush(stdout);
  StageProgress progress(kRunsAreSaved);
  const Comparison comparison =
      run_mqar(device, settings, args.out, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, comparison_json(comparison, "mqar", settings.unlike_published()),
                mqar_report(settings, comparison));
  print_tables({mqar_table(settings, comparison)});
  fmt::print("\n{}\n\nTrained and tested in {}. The pictures: {}\n", settings.unlike_published(),
             clock_text(comparison.seconds()), report_path(args.out));
}

}  // namespace

void add_experiment_mqar(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand("mqar",
                                       "Multi-query associative recall (Arora et al., 2023, "
                                       "\"Zoology\"): learn to say the values of "
                                       "keys, at several lengths and widths");
  task->add_flag("--quick", args->quick,
                 "two lengths, one width, a small vocabulary: a few minutes a mixer on two cores");
  task->add_option("--steps", args->steps, "training steps")->check(whole_number(1));
  task->add_option("--sequences", args->sequences, "sequences of a step")
      ->default_str("32; 256 without --quick")
      ->check(whole_number(1, 1 << 20));
  task->add_option("--lr", args->peak_lrs,
                   "peak learning rates, with commas between; each model shows its best")
      ->type_name("LIST")
      ->delimiter(',')
      ->default_str("0.001,0.003; 0.0001,0.00046,0.0022,0.01 without --quick")
      ->check(CLI::PositiveNumber);
  add_mixers_option(*task, *args);
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json and, below runs/, the trained models");
  task->footer(
      "A run that was stopped goes on where it was, and one that is finished is not run again: "
      "remove --out for that.\n"
      "Example: elapse experiment mqar --quick --out out/mqar");
  task->callback([args] { mqar(*args); });
}

}  // namespace elapse

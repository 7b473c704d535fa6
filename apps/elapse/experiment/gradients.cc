// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/gradients.h"

#include <fmt/core.h>

#include <vector>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/gradients", {"rnn", "lstm", "s4d", "mamba"}) {
    std::erase_if(offered,
                  [](const auto& name) { return !has_state_gradients(mixer_named(name)); });
  }
  bool quick = false;
};

void gradients(const Arguments& args) {
  GradientsSettings settings = args.quick ? GradientsSettings::quick() : GradientsSettings::full();
  settings.mixers = args.mixer_kinds();
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print(
      "How far back gradients reach: {} models of {} layers, d_model {}, trained twice, {} steps "
      "each.\n",
      settings.mixers.size(), settings.n_layers, settings.d_model, settings.direct.steps);
  std::fflush(stdout);
  StageProgress progress(kRunsAreSaved);
  const GradientsResult result = run_gradients(
      device, settings, args.out, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, gradients_json(settings, result), gradients_report(settings, result));
  print_tables({gradients_table(settings, result)});
  fmt::print("\nTrained and tested in {}. The pictures: {}\n",
             clock_text(result.training.seconds()), report_path(args.out));
}

}  // namespace

void add_experiment_gradients(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "gradients",
      "How far back gradients reach: the norm of d loss_t / d state_(t-k) against k, before and "
      "after training, directly or on short sequences first");
  task->add_flag("--quick", args->quick, "a tenth of the steps: minutes on two cores");
  add_mixers_option(*task, *args);
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json and, below runs/, the trained models");
  task->footer(
      "A run that was stopped goes on where it was, and one that is finished is not run again: "
      "remove --out for that.\n"
      "Example: elapse experiment gradients --quick --out out/gradients");
  task->callback([args] { gradients(*args); });
}

}  // namespace elapse

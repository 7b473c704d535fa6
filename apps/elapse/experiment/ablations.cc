// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ablations.h"

#include <fmt/core.h>

#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/ablations", {}) {}
  bool quick = false;
  std::string text;
  std::optional<int64_t> steps;
};

AblationSettings settings_of(const Arguments& args) {
  AblationSettings settings = args.quick ? AblationSettings::quick() : AblationSettings::full();
  settings.text = read_text(args.text);
  settings.text_name = args.text;
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  if (args.steps) set_steps(settings.train, *args.steps);
  settings.train.check();
  return settings;
}

void ablations(const Arguments& args) {
  const AblationSettings settings = settings_of(args);
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print("Ablations of Mamba: {} layers, d_model {}, {} steps on {} bytes of text, {} seeds.\n",
             settings.n_layers, settings.d_model, settings.train.steps, settings.text.size(),
             settings.seeds.count);
  std::fflush(stdout);
  StageProgress progress(kRunsAreSaved);
  const Comparison comparison = run_ablations(
      device, settings, args.out, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, ablation_json(settings, comparison),
                ablation_report(settings, comparison));
  print_tables(ablation_tables(settings, comparison));
  fmt::print("\nTrained and tested in {}. The pictures: {}\n", clock_text(comparison.seconds()),
             report_path(args.out));
}

}  // namespace

void add_experiment_ablations(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "ablations",
      "What of Mamba matters (Gu and Dao, 2023, section 4.6.2): which of dt, B and C depend on the "
      "token, the gate, and the number of states, on a text");
  task->add_option("--text", args->text,
                   "a file of text, learned byte by byte; the last tenth is "
                   "held out")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  task->add_flag("--quick", args->quick,
                 "small models and three numbers of states, a few minutes on two cores");
  task->add_option("--steps", args->steps, "training steps")->check(whole_number(1));
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json and, below runs/, the trained models");
  task->footer(
      "A run that was stopped goes on where it was, and one that is finished is not run again: "
      "remove --out for that.\n"
      "Example: elapse experiment ablations --quick --text book.txt --out out/ablations");
  task->callback([args] { ablations(*args); });
}

}  // namespace elapse

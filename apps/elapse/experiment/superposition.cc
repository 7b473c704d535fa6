// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/superposition.h"

#include <fmt/core.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"

namespace elapse {
namespace {

struct Arguments : ExperimentOptions {
  Arguments() : ExperimentOptions("out/superposition") {}
  int64_t seeds = 1;
};

void superposition(const Arguments& args) {
  SuperpositionSettings settings = SuperpositionSettings::quick();
  settings.seed = args.seed;
  settings.seeds = args.seeds;
  settings.check();
  make_folder(args.out);
  const Device device(args.device, args.threads);
  fmt::print("Toy models of superposition, from {} seed{}.\n", settings.seeds,
             settings.seeds == 1 ? "" : "s");
  std::fflush(stdout);
  StageProgress progress;
  const SuperpositionResult result =
      run_superposition(device, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, superposition_json(settings, result),
                superposition_report(settings, result));
  print_tables(superposition_tables(settings, result));
  fmt::print("\n{}\nTrained and measured in {}. The pictures: {}\n", settings.unlike_published(),
             clock_text(result.seconds), report_path(args.out));
}

}  // namespace

void add_experiment_superposition(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "superposition",
      "Toy models of superposition (Elhage et al., 2022): five features in a plane, 80 in 20 "
      "dimensions against sparsity, and |x| computed by fewer neurons than it takes");
  task->add_option("--seeds", args->seeds,
                   "train every model from so many seeds; tables then tell medians and ranges")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  add_options(*task, *args, "the initialisation and the data, the first of them",
              "report.html and result.json");
  task->footer("Example: elapse experiment superposition --seeds 5");
  task->callback([args] { superposition(*args); });
}

}  // namespace elapse

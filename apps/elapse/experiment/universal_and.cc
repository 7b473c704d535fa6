// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/universal_and.h"

#include <fmt/core.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"

namespace elapse {
namespace {

struct Arguments : ExperimentOptions {
  Arguments() : ExperimentOptions("out/universal-and") {}
  UniversalAndSettings settings;
  std::string target = "and", loss = "by-class";
};

PairLoss loss_of(const std::string& name) {
  if (name == "together") return PairLoss::together;
  return name == "by-truth" ? PairLoss::by_truth : PairLoss::by_class;
}

void universal_and(const Arguments& args) {
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
  write_results(args.out, universal_and_json(settings, result),
                universal_and_report(settings, result));
  print_tables(universal_and_tables(settings, result));
  fmt::print("\nConstruction in {}, read-outs in {}, nets in {}. The pictures: {}\n",
             clock_text(result.construction_seconds), clock_text(result.readout_seconds),
             clock_text(result.training_seconds), report_path(args.out));
}

}  // namespace

void add_experiment_universal_and(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
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
  add_options(*task, *args, "every draw", "report.html and result.json");
  task->footer("Example: elapse experiment universal-and --seeds 3 --out out/universal-and");
  task->callback([args] { universal_and(*args); });
}

}  // namespace elapse

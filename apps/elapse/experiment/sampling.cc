// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/sampling.h"

#include <fmt/core.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/sampling", {"all"}) {}
  bool quick = false;
};

void sampling(const Arguments& args) {
  SamplingSettings settings = args.quick ? SamplingSettings::quick() : SamplingSettings::full();
  settings.mixers = args.mixer_kinds();
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print("What a token costs: {} models of {} layers, d_model {}, at up to {} tokens.\n",
             settings.mixers.size(), settings.n_layers, settings.d_model,
             settings.positions.back());
  std::fflush(stdout);
  StageProgress progress("what was measured of whole models is kept, and the same command goes on");
  const SamplingResult result = run_sampling(device, settings, args.out,
                                             [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, sampling_json(settings, result), sampling_report(settings, result));
  print_tables(sampling_tables(settings, result));
  fmt::print("\nThe pictures: {}\n", report_path(args.out));
}

}  // namespace

void add_experiment_sampling(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "sampling",
      "What a token costs: time and memory of sampling one against the tokens before it, time of "
      "reading and training against length, for every mixer");
  task->add_flag("--quick", args->quick, "up to 2^13 tokens instead of 2^17");
  add_mixers_option(*task, *args);
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the weights and the tokens",
              "report.html, result.json and, below measured/, each model's measurements");
  task->footer(
      "Times are of this machine, and want it quiet.\n"
      "Example: elapse experiment sampling --quick --out out/sampling");
  task->callback([args] { sampling(*args); });
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/scaling.h"

#include <fmt/core.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

struct Arguments : ComparisonOptions {
  Arguments() : ComparisonOptions("out/scaling", {"mamba", "attention", "lstm", "s4d", "h3"}) {}
  bool quick = false;
  std::string text;
};

void scaling(const Arguments& args) {
  ScalingSettings settings = args.quick ? ScalingSettings::quick() : ScalingSettings::full();
  settings.mixers = args.mixer_kinds();
  settings.text = read_text(args.text);
  settings.text_name = args.text;
  settings.activations = compute_dtype(args.dtype);
  settings.seeds = args.all_seeds();
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print("Scaling: {} families at {} sizes, {} tokens a parameter, on {} bytes of text.\n",
             settings.mixers.size(), settings.sizes.size(), settings.tokens_per_parameter,
             settings.text.size());
  std::fflush(stdout);
  StageProgress progress(kRunsAreSaved);
  const ScalingResult result = run_scaling(device, settings, args.out,
                                           [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  const std::string unlike = unlike_published(settings, result);
  write_results(args.out, comparison_json(result.comparison, "scaling", unlike),
                scaling_report(settings, result));
  print_tables(scaling_tables(settings, result));
  fmt::print("\n{}\nTrained and tested in {}. The pictures: {}\n",
             scaling_verdict(settings, result), clock_text(result.comparison.seconds()),
             report_path(args.out));
}

}  // namespace

void add_experiment_scaling(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "scaling",
      "Loss against training operations (Gu and Dao, 2023, Figure 4): families of models at "
      "several sizes, as many parameters and operations each, on a text");
  task->add_option("--text", args->text,
                   "a file of text, learned byte by byte; the last tenth is held out")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  task->add_flag("--quick", args->quick,
                 "four small sizes, 10 tokens a parameter: a quarter of an hour on two cores");
  add_mixers_option(*task, *args);
  add_seeds_option(*task, *args);
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json and, below runs/, the trained models");
  task->footer(
      "A run that was stopped goes on where it was, and one that is finished is not run again: "
      "remove --out for that.\n"
      "Example: elapse experiment scaling --quick --text book.txt --out out/scaling");
  task->callback([args] { scaling(*args); });
}

}  // namespace elapse

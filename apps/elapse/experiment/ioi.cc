// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ioi.h"

#include <fmt/core.h>

#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"
#include "elapse/io/file.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

struct Arguments : ExperimentOptions {
  Arguments() : ExperimentOptions("out/ioi") {}
  std::optional<int64_t> steps;
  std::string lists;
};

void ioi(const Arguments& args) {
  IoiSettings settings = IoiSettings::quick(
      args.lists.empty() ? IoiLists::own() : IoiLists::parse(read_text(args.lists), args.lists));
  settings.activations = compute_dtype(args.dtype);
  settings.seed = args.seed;
  if (args.steps) settings.train.steps = *args.steps;
  settings.train.check();
  make_folder(args.out);
  Device device(args.device, args.threads);
  fmt::print("Indirect-object identification: a Mamba of {} layers, d_model {}, {} steps.\n",
             settings.model.n_layers, settings.model.d_model, settings.train.steps);
  std::fflush(stdout);
  StageProgress progress;
  const IoiRun run =
      run_ioi(device, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, ioi_json(settings, run.result), ioi_report(settings, run.result));
  save_model(*run.model, args.out);
  print_tables(ioi_tables(run.result));
  fmt::print("\nTrained in {}, inspected in {}. The pictures: {}\n",
             clock_text(run.result.training_seconds), clock_text(run.result.inspecting_seconds),
             report_path(args.out));
}

}  // namespace

void add_experiment_ioi(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "ioi",
      "Indirect-object identification (Wang et al., 2022): train a model to it, find its circuit, "
      "knock it out by means and by resampling, and fool it");
  task->add_option("--steps", args->steps, "training steps")->check(whole_number(1));
  task->add_option("--lists", args->lists,
                   "JSON with templates, names, places and objects, in place of elapse's own")
      ->type_name("FILE")
      ->check(not_empty());
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the initialisation and the data",
              "report.html, result.json and the trained model");
  task->footer("Example: elapse experiment ioi --out out/ioi");
  task->callback([args] { ioi(*args); });
}

}  // namespace elapse

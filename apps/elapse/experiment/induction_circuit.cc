// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction_circuit.h"

#include <fmt/core.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/experiment/running.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

struct Arguments : ExperimentOptions {
  Arguments() : ExperimentOptions("out/induction-circuit") {}
  std::string model;
  InductionCircuitSettings settings;
};

void induction_circuit(const Arguments& args) {
  InductionCircuitSettings settings = args.settings;
  settings.seed = args.seed;
  make_folder(args.out);
  Device device(args.device, args.threads);
  const auto model =
      load_model(device, args.model, compute_dtype(args.dtype), WeightMemory::mapped);
  StageProgress progress;
  const InductionCircuit found = run_induction_circuit(
      *model, settings, [&](const ExperimentProgress& now) { progress(now); });
  progress.end();
  write_results(args.out, induction_circuit_json(found), induction_circuit_report(settings, found));
  fmt::print("The model answers {:.1f} % of {} sequences of {} tokens.\n", 100 * found.accuracy,
             settings.sequences, settings.length);
  const std::vector<Table> tables = induction_circuit_tables(found);
  if (tables.empty()) fmt::print("That is too little to take it apart.\n");
  print_tables(tables);
  fmt::print("\nThe pictures: {}\n", report_path(args.out));
}

}  // namespace

void add_experiment_induction_circuit(CLI::App& verb) {
  auto args = std::make_shared<Arguments>();
  CLI::App* task = verb.add_subcommand(
      "induction-circuit",
      "Take apart the model that `experiment induction` trained: where it keeps the answer, and "
      "which hypotheses of its circuit survive causal scrubbing");
  task->add_option("-m,--model", args->model, "folder of the trained model")
      ->required()
      ->check(not_empty());
  task->add_option("--length", args->settings.length, "tokens of a sequence")
      ->check(whole_number(9, 65536))
      ->capture_default_str();
  task->add_option("--sequences", args->settings.sequences, "held-out sequences")
      ->check(whole_number(2, 4096))
      ->capture_default_str();
  add_dtype_option(*task, args->dtype);
  add_options(*task, *args, "the sequences and the draws", "report.html and result.json");
  task->footer("Example: elapse experiment induction-circuit -m out/induction");
  task->callback([args] { induction_circuit(*args); });
}

}  // namespace elapse

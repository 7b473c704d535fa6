// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/run.h"

namespace elapse {
namespace {

bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

}  // namespace

void run(Trainer& trainer, const RunConfig& config, RunObserver& observer) {
  trainer.check_evaluation(config.eval_length);
  trainer.save(config.out);
  int64_t saved_at = trainer.steps_done();
  while (!trainer.finished() && !observer.wants_to_stop()) {
    const StepReport report = trainer.step();
    std::optional<Evaluation> evaluation;
    if (due(report.step, config.eval_every) || trainer.finished()) {
      evaluation = trainer.evaluate(config.eval_length);
    }
    observer.after_step(report, evaluation);
    if (due(report.step, config.save_every)) {
      trainer.save(config.out);
      saved_at = report.step;
    }
  }
  if (saved_at != trainer.steps_done()) trainer.save(config.out);
}

}  // namespace elapse

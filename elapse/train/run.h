// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>

#include "elapse/train/trainer.h"

namespace elapse {

struct RunConfig {
  std::string out;             // the run's folder, prepared (checkpoint.h)
  int64_t save_every = 0;      // steps between checkpoints; 0: only at the ends
  int64_t eval_every = 0;      // steps between evaluations; 0: only at the end
  int64_t eval_length = 1024;  // tokens of the sequences evaluated on
};

// Who watches a run and may stop it.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  // After each step, with the evaluation if one was due, and before the checkpoint if one is.
  virtual void after_step(const StepReport& step, const std::optional<Evaluation>& evaluation) = 0;
  virtual bool wants_to_stop() = 0;  // asked between steps
};

// Trains to the end, or until the observer wants to stop, with a checkpoint at the beginning, so
// that a folder that cannot be written shows at once, every save_every steps and at the end.
void run(Trainer& trainer, const RunConfig& config, RunObserver& observer);

}  // namespace elapse

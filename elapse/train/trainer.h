// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/core/error.h"
#include "elapse/data/token_source.h"
#include "elapse/train/config.h"
#include "elapse/train/evaluation.h"

namespace elapse {

// What one training step did.
struct StepReport {
  int64_t step = 0;    // 1 for the first
  int64_t length = 0;  // of its sequences
  int64_t tokens = 0;
  double loss = 0;           // mean over its targets before the update, nats
  double gradient_norm = 0;  // before clipping
  double lr = 0;
  double seconds = 0;
};

// A step whose loss or gradients are not finite. what() names the last good checkpoint beside it.
class Diverged : public Error {
 public:
  Diverged(int64_t step, const std::string& reason, const std::string& checkpoint)
      : Error(fmt::format("training stopped at step {}: {}; {}", step, reason, checkpoint)),
        step_(step),
        reason_(reason) {}

  int64_t step() const { return step_; }  // 1 for the first
  const std::string& reason() const { return reason_; }

 private:
  int64_t step_;
  std::string reason_;
};

// Trains a model step by step: forward and backward over the step's sequences, in one pass or
// several, then one clipped update. The same model, source and configuration give the same bits,
// with or without a save and a resume between any two steps.
class Trainer {
 public:
  // Keeps references to the model, whose weights it changes, and the source. Throws Error naming
  // what in the configuration makes no run, or does not suit the source or the model.
  Trainer(const LanguageModel& model, const TokenSource& source, const TrainConfig& config);

  // Throws Diverged if the loss or the gradients are not finite, with the weights as they were
  // before; the reason names the first tensor that went.
  StepReport step();
  int64_t steps_done() const { return optimizer_.updates(); }
  bool finished() const { return steps_done() >= config_.steps; }

  // Throws Error if the source cannot give held-out sequences of `length` tokens.
  void check_evaluation(int64_t length) const { source_.held_out_batches(length); }
  Evaluation evaluate(int64_t length) const { return elapse::evaluate(model_, source_, length); }

  // Writes a checkpoint (checkpoint.h) into a prepared run folder, after a look that the weights
  // still give a finite loss on the step to come: those that do not throw as step() does and
  // replace no good checkpoint.
  void save(const std::string& folder);
  // Throws Error naming the setting if the checkpoint is one of another run.
  void resume(const std::string& folder);

  const TrainConfig& config() const { return config_; }
  const LanguageModel& model() const { return model_; }

 private:
  std::vector<TokenBatch> passes(int64_t step) const;
  // A mean over some of a step's targets, and how much it counts in the mean over all.
  struct Share {
    Tensor loss;  // (1)
    double weight;
    const TokenBatch* pass;
  };
  std::vector<Share> backward(const std::vector<TokenBatch>& passes);
  void backward(const TokenBatch& pass, double weight, std::vector<Share>& shares);
  void backward_in_stretches(const TokenBatch& pass, double weight, std::vector<Share>& shares);
  double mean_loss(const std::vector<Share>& shares) const;
  Settings run_settings() const;
  [[noreturn]] void stop(std::string_view what, double value, const TokenBatch& batch) const;

  const LanguageModel& model_;
  const TokenSource& source_;
  TrainConfig config_;
  AdamWOptimizer optimizer_;
  std::string last_checkpoint_;  // "out/resume.safetensors of step 10"
};

}  // namespace elapse

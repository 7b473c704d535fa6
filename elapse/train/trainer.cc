// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "elapse/train/checkpoint.h"
#include "elapse/train/non_finite.h"
#include "elapse/train/predict.h"
#include "elapse/train/stretches.h"

namespace elapse {
namespace {

using Clock = std::chrono::steady_clock;

int64_t targets_of(const std::vector<TokenBatch>& passes) {
  int64_t targets = 0;
  for (const TokenBatch& pass : passes) targets += pass.counted_targets();
  return targets;
}

// How much the mean over a pass's targets counts in that over all passes' targets.
double share(const TokenBatch& pass, int64_t all_targets) {
  return static_cast<double>(pass.counted_targets()) / static_cast<double>(all_targets);
}

}  // namespace

Trainer::Trainer(const LanguageModel& model, const TokenSource& source, const TrainConfig& config)
    : model_(model),
      source_(source),
      config_(config),
      optimizer_(model.device(), model.parameters(), config.adamw) {
  config.check();
  for (int64_t length : config.lengths()) source.check_length(length);
  ELAPSE_CHECK(model.config().vocab() >= source.vocab_size(),
               "vocabulary: expected a model of at least {} tokens for this data, found {}",
               source.vocab_size(), model.config().vocab());
}

std::vector<TokenBatch> Trainer::passes(int64_t step) const {
  const int64_t length = config_.length_at(step);
  const int64_t sequences = config_.sequences(length);
  std::vector<TokenBatch> passes;
  for (int64_t i = 0; i < config_.accumulate; ++i) {
    const int64_t begin = sequences * i / config_.accumulate;
    const int64_t end = sequences * (i + 1) / config_.accumulate;
    passes.push_back(source_.training_batch(step, begin, end - begin, length));
  }
  return passes;
}

// Adds up the gradients of the mean over all passes.
std::vector<Trainer::Share> Trainer::backward(const std::vector<TokenBatch>& passes) {
  const int64_t targets = targets_of(passes);
  model_.parameters().zero_grad(model_.device());
  std::vector<Share> shares;
  for (const TokenBatch& pass : passes) {
    const int64_t longest = *std::max_element(pass.lengths.begin(), pass.lengths.end());
    if (config_.truncate == 0 || longest <= config_.truncate) {
      backward(pass, share(pass, targets), shares);
    } else {
      backward_in_stretches(pass, share(pass, targets), shares);
    }
  }
  return shares;
}

void Trainer::backward(const TokenBatch& pass, double weight, std::vector<Share>& shares) {
  Tape tape(model_.device());
  const Var loss = predict_loss(tape, model_, pass);
  tape.backward(loss, weight);
  shares.push_back({loss.value(), weight, &pass});
}

void Trainer::backward_in_stretches(const TokenBatch& pass, double weight,
                                    std::vector<Share>& shares) {
  State state = model_.make_state(std::ssize(pass.lengths));
  for (const Stretch& stretch : stretches_of(pass, config_.truncate)) {
    const bool counts = stretch.batch.counted_targets() > 0;
    Tape tape(model_.device(), counts);
    const Var loss = predict_loss(tape, model_, stretch, state);
    if (!counts) continue;
    const double of_stretch = weight * share(stretch.batch, pass.counted_targets());
    tape.backward(loss, of_stretch);
    shares.push_back({loss.value(), of_stretch, &pass});
  }
}

double Trainer::mean_loss(const std::vector<Share>& shares) const {
  double mean = 0;
  for (const Share& share : shares) {
    const double loss = scalar(model_.device(), share.loss);
    if (!std::isfinite(loss)) stop("the loss", loss, *share.pass);
    mean += loss * share.weight;
  }
  return mean;
}

StepReport Trainer::step() {
  const auto start = Clock::now();
  StepReport report;
  report.step = steps_done() + 1;
  report.length = config_.length_at(steps_done());
  report.tokens = config_.sequences(report.length) * report.length;
  report.lr = config_.schedule.lr(steps_done(), config_.steps);

  const std::vector<TokenBatch> batches = passes(steps_done());
  const std::vector<Share> shares = backward(batches);
  optimizer_.measure_gradients();
  report.loss = mean_loss(shares);
  report.gradient_norm = optimizer_.gradient_norm();
  if (!std::isfinite(report.gradient_norm)) {
    stop("the gradients' norm", report.gradient_norm, batches.back());
  }
  optimizer_.update(report.lr);
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

void Trainer::stop(std::string_view what, double value, const TokenBatch& batch) const {
  throw Diverged(steps_done() + 1,
                 fmt::format("{} is {}; the first tensor that is not finite: {}", what, value,
                             first_non_finite(model_, batch)),
                 last_checkpoint_.empty() ? "no checkpoint was saved"
                                          : "the last good checkpoint: " + last_checkpoint_);
}

void Trainer::save(const std::string& folder) {
  // The step to come; after the last one there is none, and its own examples serve.
  const TokenBatch next = passes(std::min(steps_done(), config_.steps - 1)).front();
  Tape tape(model_.device(), false);
  const double loss = scalar(model_.device(), predict_loss(tape, model_, next).value());
  if (!std::isfinite(loss)) stop("the loss", loss, next);
  save_checkpoint(folder, model_, optimizer_, run_settings());
  last_checkpoint_ = fmt::format("{} of step {}", resume_path(folder), steps_done());
}

void Trainer::resume(const std::string& folder) {
  load_checkpoint(folder, model_, optimizer_, run_settings());
  last_checkpoint_ = fmt::format("{} of step {}", resume_path(folder), steps_done());
}

Settings Trainer::run_settings() const {
  Settings all = settings(config_, model_.config(), source_.description());
  all.emplace_back("dtype", name_of(model_.activations()));
  return all;
}

}  // namespace elapse

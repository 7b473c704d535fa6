// SPDX-License-Identifier: Apache-2.0
#include "elapse/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "elapse/core/error.h"

namespace elapse {
namespace {

// How much of [begin, end) has passed at `step`, 0 to 1.
double passed(int64_t step, int64_t begin, int64_t end) {
  if (step >= end) return 1;
  return std::max(0.0, static_cast<double>(step - begin) / static_cast<double>(end - begin));
}

}  // namespace

void Schedule::check(int64_t total_steps) const {
  ELAPSE_CHECK(std::isfinite(peak_lr) && peak_lr > 0,
               "peak_lr: expected a positive number, found {}", peak_lr);
  ELAPSE_CHECK(min_lr >= 0 && min_lr <= peak_lr, "min_lr: expected 0 to the peak of {}, found {}",
               peak_lr, min_lr);
  ELAPSE_CHECK(warmup_steps >= 0, "warmup_steps: expected 0 or more, found {}", warmup_steps);
  ELAPSE_CHECK(decay_steps >= 0, "decay_steps: expected 0 or more, found {}", decay_steps);
  ELAPSE_CHECK(kind == Kind::constant || warmup_steps <= total_steps,
               "warmup_steps: expected at most the {} steps there are, found {}", total_steps,
               warmup_steps);
  ELAPSE_CHECK(kind != Kind::warmup_stable_decay || decay_steps <= total_steps - warmup_steps,
               "decay_steps: expected at most the {} steps after the warm-up, found {}",
               total_steps - warmup_steps, decay_steps);
}

double Schedule::lr(int64_t step, int64_t total_steps) const {
  if (step < warmup_steps) {
    return peak_lr * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  switch (kind) {
    case Kind::constant:
      break;
    case Kind::cosine: {
      const double angle = std::numbers::pi * passed(step, warmup_steps, total_steps);
      return min_lr + (peak_lr - min_lr) * 0.5 * (1 + std::cos(angle));
    }
    case Kind::warmup_stable_decay:
      return peak_lr - (peak_lr - min_lr) * passed(step, total_steps - decay_steps, total_steps);
  }
  return peak_lr;
}

}  // namespace elapse

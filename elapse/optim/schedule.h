// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace elapse {

// The learning rate of each step. It rises linearly over the first `warmup_steps`, the last of
// which has the peak, and then
//   constant:             stays;
//   cosine:               falls to min_lr along half a cosine (Loshchilov and Hutter, 2017);
//   warmup_stable_decay:  stays, and over the last `decay_steps` falls to min_lr linearly
//                         (Hu et al., 2024; Hägele et al., 2024).
// The fall would reach min_lr at `total_steps`, the step after the last.
struct Schedule {
  enum class Kind : uint8_t { constant, cosine, warmup_stable_decay };

  Kind kind = Kind::constant;
  double peak_lr = 1e-3;
  double min_lr = 0;
  int64_t warmup_steps = 0;
  int64_t decay_steps = 0;

  // Throws Error naming the field that makes no schedule over so many steps.
  void check(int64_t total_steps) const;
  double lr(int64_t step, int64_t total_steps) const;  // of step 0, 1, ...
};

}  // namespace elapse

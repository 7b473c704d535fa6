// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <vector>

#include "elapse/ops/device.h"

namespace elapse {

// out = sum of the squares of all elements of all tensors, in double, in an order fixed by their
// sizes.
struct SumOfSquares {
  static constexpr Op kOp = Op::sum_of_squares;
  std::vector<Tensor> tensors;  // contiguous
  Tensor out;                   // (1) f64, assigned
};

struct AdamWTensor {
  Tensor param;  // contiguous, updated in place, as are m and v
  Tensor grad;
  Tensor m;
  Tensor v;
  bool decay = true;
};

// AdamW (Loshchilov and Hutter, 2019), with the gradient g first scaled for clipping by
// min(1, max_norm / (sqrt(norm_squared) + 1e-6)) as PyTorch does:
//   param -= lr weight_decay param;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   param -= lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
struct AdamW {
  static constexpr Op kOp = Op::adamw;
  std::vector<AdamWTensor> tensors;
  Tensor norm_squared;  // (1) f64: of all gradients; or empty: no clipping
  double max_norm = 1;
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;  // 1 for the first update
};

void sum_of_squares(Device& device, const SumOfSquares& args);
void adamw(Device& device, const AdamW& args);

}  // namespace elapse

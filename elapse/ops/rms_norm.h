// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"
#include "elapse/ops/tap.h"

namespace elapse {

// The residual add and RMSNorm of a pre-norm block, in one pass (Zhang and Sennrich, 2019):
//   sum = residual + x;  scale = sqrt(mean(sum^2) + eps);  y = weight * sum / scale
// Of y's dtype. Where that is of 16 bits all but x and y are float32, and without a residual x may
// be.
struct RmsNormForward {
  static constexpr Op kOp = Op::rms_norm_forward;
  Tensor x;         // (tokens, d_model)
  Tensor residual;  // (tokens, d_model), or empty: sum is x itself
  Tensor weight;    // (d_model)
  double eps = 1e-5;
  Tensor sum;     // (tokens, d_model), assigned, not in place; empty where residual is
  Tensor scale;   // (tokens, 1), assigned: the value after `scale_tap`
  Tensor y;       // (tokens, d_model), assigned
  Tap scale_tap;  // (tokens, 1): y uses the edited scale
};

// Gradients of x and residual are the same tensor, dsum_total, of sum's dtype. Of dy's dtype.
struct RmsNormBackward {
  static constexpr Op kOp = Op::rms_norm_backward;
  Tensor dy;      // (tokens, d_model)
  Tensor dsum;    // (tokens, d_model): what reaches `sum` from later; or empty
  Tensor sum;     // (tokens, d_model): x where residual was empty
  Tensor weight;  // (d_model)
  Tensor scale;   // (tokens, 1), as forward left it
  double eps = 1e-5;
  Tap scale_tap;      // forward's
  Tensor dsum_total;  // (tokens, d_model), assigned; may be dsum
  Tensor dx;       // (tokens, d_model), assigned: dsum_total for an x of dy's dtype where sum has
                   // another; or empty
  Tensor dweight;  // (d_model), accumulated
};

void rms_norm_forward(Device& device, const RmsNormForward& args);
void rms_norm_backward(Device& device, const RmsNormBackward& args);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"
#include "elapse/ops/tap.h"

namespace elapse {

// The residual add and LayerNorm of a pre-norm block, in one pass (Ba, Kiros and Hinton, 2016):
//   sum = residual + x;  mean = mean(sum);  scale = sqrt(mean((sum - mean)^2) + eps)
//   y = weight * (sum - mean) / scale + bias
// Of y's dtype. Where that is of 16 bits all but x and y are float32, and without a residual x is.
struct LayerNormForward {
  static constexpr Op kOp = Op::layer_norm_forward;
  Tensor x;         // (tokens, d_model)
  Tensor residual;  // (tokens, d_model), or empty: sum is x itself
  Tensor weight;    // (d_model)
  Tensor bias;      // (d_model)
  double eps = 1e-5;
  Tensor sum;     // (tokens, d_model), assigned, not in place; empty where residual is
  Tensor mean;    // (tokens, 1), assigned
  Tensor scale;   // (tokens, 1), assigned: the value after `scale_tap`
  Tensor y;       // (tokens, d_model), assigned
  Tap scale_tap;  // (tokens, 1): y uses the edited scale
};

// Gradients of x and residual are the same tensor, dsum_total, of sum's dtype. Of dy's dtype.
struct LayerNormBackward {
  static constexpr Op kOp = Op::layer_norm_backward;
  Tensor dy;      // (tokens, d_model)
  Tensor dsum;    // (tokens, d_model): what reaches `sum` from later; or empty
  Tensor sum;     // (tokens, d_model): x where residual was empty
  Tensor weight;  // (d_model)
  Tensor mean;    // (tokens, 1), as forward left it
  Tensor scale;   // (tokens, 1), likewise
  double eps = 1e-5;
  Tap scale_tap;      // forward's
  Tensor dsum_total;  // (tokens, d_model), assigned; may be dsum
  Tensor dx;       // (tokens, d_model), assigned: dsum_total for an x of dy's dtype where sum has
                   // another; or empty
  Tensor dweight;  // (d_model), accumulated
  Tensor dbias;    // (d_model), accumulated
};

void layer_norm_forward(Device& device, const LayerNormForward& args);
void layer_norm_backward(Device& device, const LayerNormBackward& args);

}  // namespace elapse

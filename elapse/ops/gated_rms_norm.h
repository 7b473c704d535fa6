// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"
#include "elapse/ops/tap.h"

namespace elapse {

// The gate and the norm after Mamba-2's recurrence, in the published order, group by group: each
// of n_groups equal parts of a row is divided by its own root mean square.
//   gate = silu(z);  gated = x gate;  scale = sqrt(mean(gated^2) + eps);  y = weight gated / scale
struct GatedRmsNormInputs {
  Tensor x;       // (tokens, d_inner), rows may be strided
  Tensor z;       // (tokens, d_inner), rows may be strided
  Tensor weight;  // (d_inner)
  int64_t n_groups = 1;
  double eps = 1e-5;
  Tap gate_tap;   // (tokens, d_inner)
  Tap gated_tap;  // (tokens, d_inner): the scale is that of the edited value
  Tap scale_tap;  // (tokens, n_groups)
};

struct GatedRmsNormForward {
  static constexpr Op kOp = Op::gated_rms_norm_forward;
  GatedRmsNormInputs in;
  Tensor scale;  // (tokens, n_groups), assigned: the value after `scale_tap`
  Tensor y;      // (tokens, d_inner), assigned
};

struct GatedRmsNormBackward {
  static constexpr Op kOp = Op::gated_rms_norm_backward;
  Tensor dy;              // (tokens, d_inner)
  GatedRmsNormInputs in;  // forward's; nothing is watched
  Tensor scale;           // (tokens, n_groups), as forward left it
  Tensor dx;              // (tokens, d_inner), assigned, rows may be strided
  Tensor dz;              // (tokens, d_inner), assigned, rows may be strided
  Tensor dweight;         // (d_inner), accumulated
};

void gated_rms_norm_forward(Device& device, const GatedRmsNormForward& args);
void gated_rms_norm_backward(Device& device, const GatedRmsNormBackward& args);

}  // namespace elapse

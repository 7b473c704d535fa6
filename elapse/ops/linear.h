// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

namespace elapse {

// y = x W^T + b. Rows of x, y, dx, dy may be strided; W is contiguous. Where the others are f32, W
// may be f16 or bf16: sums are of f32. A backend may then round the factors x to bf16 for a W of
// bf16, which is what processors multiply fast; ref does not. Where x and dy are bf16 (which ref
// and cpu do not compute in), W is rounded to that and may be f32, as b and what is accumulated
// are, and y may be f32.
struct LinearForward {
  static constexpr Op kOp = Op::linear_forward;
  Tensor x;       // (rows, in)
  Tensor weight;  // (out, in)
  Tensor bias;    // (out) or empty
  Tensor y;       // (rows, out), assigned
};

struct LinearBackwardInput {
  static constexpr Op kOp = Op::linear_backward_input;
  Tensor dy;      // (rows, out)
  Tensor weight;  // (out, in)
  Tensor dx;      // (rows, in), assigned; or, where it `adds`, accumulated
  bool adds = false;
};

struct LinearBackwardWeight {
  static constexpr Op kOp = Op::linear_backward_weight;
  Tensor dy;       // (rows, out)
  Tensor x;        // (rows, in)
  Tensor dweight;  // (out, in), accumulated
  Tensor dbias;    // (out), accumulated; or empty
};

void linear_forward(Device& device, const LinearForward& args);
void linear_backward_input(Device& device, const LinearBackwardInput& args);
void linear_backward_weight(Device& device, const LinearBackwardWeight& args);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"

namespace elapse {

// A token of each of some sequences through what Mamba-1 has between its norm and out_proj, as
// decoding runs it: linear_forward, causal_conv_forward and selective_scan_forward one after the
// other, from slot to slot, with nothing between them to look at.
//   [in_x, z] = in_proj u;  x = silu(conv(in_x));  [dt_low, B, C] = x_proj x
//   gated = selective_scan(x, dt_proj dt_low, A, B, C, D, z)
// Where u is of 16 bits, so are gated and, or rounded to that, the matrices; all else is float32.
struct MambaStep {
  static constexpr Op kOp = Op::mamba_step;
  Tensor u;             // (tokens, d_model)
  Tensor in_proj;       // (2 d_inner, d_model): rows of x, then of z
  Tensor in_proj_bias;  // (2 d_inner), or empty
  Tensor conv_weight;   // (d_inner, d_conv)
  Tensor conv_bias;     // (d_inner), or empty
  Tensor x_proj;        // (dt_rank + 2 d_state, d_inner): rows of dt, B, C
  Tensor dt_proj;       // (d_inner, dt_rank)
  Tensor dt_bias;       // (d_inner)
  Tensor A;             // (d_inner, d_state), negative
  Tensor D;             // (d_inner)
  Sequences seqs;       // of one token each
  Tensor conv_pool;     // (slots, d_conv - 1, d_inner), read and written
  Tensor state_pool;    // (slots, d_inner, d_state), read and written
  Tensor gated;         // (tokens, d_inner), assigned
};

void mamba_step(Device& device, const MambaStep& args);
// The same by the operations that it stands for: what kernels do that have nothing better.
void mamba_step_by_parts(Device& device, const MambaStep& args);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/ops/sequences.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Values inside: `terms`, empty or one for each k, are the products weight[k] * x[t - (d_conv - 1)
// + k] that conv sums, (tokens, d_inner) each; `conv`, the same, is the sum with the bias, before
// SiLU.
struct ConvTaps {
  std::vector<Tap> terms = {};
  Tap conv = {};
};

// Causal depthwise convolution, bias and SiLU. Per sequence, with x[t] for t < 0 taken from its
// start slot (the last d_conv - 1 columns of x so far, oldest first):
//   conv[t] = bias + sum_k weight[k] * x[t - (d_conv - 1) + k];  y = silu(conv), or conv
// Where x, y, dy and dx are of 16 bits, all else is float32.
struct CausalConvForward {
  static constexpr Op kOp = Op::causal_conv_forward;
  Tensor x;       // (tokens, d_inner), rows may be strided
  Tensor weight;  // (d_inner, d_conv)
  Tensor bias;    // (d_inner) or empty
  Sequences seqs;
  Tensor pool;         // (slots, d_conv - 1, d_inner), read and written; or empty
  Tensor saved_start;  // (n_seqs, d_conv - 1, d_inner), assigned: for backward; or empty
  Tensor y;            // (tokens, d_inner), assigned
  ConvTaps taps;
  bool silu = true;
};

struct CausalConvBackward {
  static constexpr Op kOp = Op::causal_conv_backward;
  Tensor dy;  // (tokens, d_inner)
  Tensor x;   // forward's, with its weight, bias, seqs, saved_start, taps and silu
  Tensor weight;
  Tensor bias;
  Sequences seqs;
  Tensor saved_start;  // or empty: every sequence started from zeros
  ConvTaps taps;
  bool silu = true;
  Tensor dx;       // (tokens, d_inner), assigned; rows may be strided
  Tensor dweight;  // (d_inner, d_conv), accumulated
  Tensor dbias;    // (d_inner), accumulated; or empty
  Tensor dpool;    // (slots, d_conv - 1, d_inner), see Sequences; or empty: not wanted
};

// The convolution's composition needs one small operation: x moved `by` tokens later within each
// sequence (earlier where `by` is negative, which is its backward); zeros enter.
struct CausalShift {
  static constexpr Op kOp = Op::causal_shift;
  Tensor x;  // (tokens, d_inner)
  Sequences seqs;
  int64_t by = 0;
  Tensor out;  // (tokens, d_inner), assigned
};

bool any_term_backward(const ConvTaps& taps);  // is active

void causal_conv_forward(Device& device, const CausalConvForward& args);
void causal_conv_backward(Device& device, const CausalConvBackward& args);
void causal_shift(Device& device, const CausalShift& args);

}  // namespace elapse

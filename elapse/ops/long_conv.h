// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"

namespace elapse {

// A causal convolution of each channel with a filter as long as one likes, by Fourier transforms
// of len log len operations where that is less than len filter_len. For each sequence and channel
// e, before which there is nothing:
//   y[t] = sum over j <= t of K[e][j] x[t - j]
// What rounding leaves is relative to the largest magnitude in a sequence's channel, and an
// infinity or NaN there may reach all its tokens; neither reaches other sequences, but for dK,
// which is a sum over them.
struct LongConvForward {
  static constexpr Op kOp = Op::long_conv_forward;
  Tensor x;  // (tokens, d_inner), rows may be strided; where of 16 bits K is float32, dK too
  Tensor K;  // (d_inner, filter_len)
  Sequences seqs;
  Tensor y;  // (tokens, d_inner), assigned; rows may be strided
};

struct LongConvBackward {
  static constexpr Op kOp = Op::long_conv_backward;
  Tensor dy;  // (tokens, d_inner), rows may be strided
  Tensor x;
  Tensor K;
  Sequences seqs;
  Tensor dx;  // (tokens, d_inner), assigned; rows may be strided
  Tensor dK;  // (d_inner, filter_len), accumulated
};

void long_conv_forward(Device& device, const LongConvForward& args);
void long_conv_backward(Device& device, const LongConvBackward& args);

}  // namespace elapse

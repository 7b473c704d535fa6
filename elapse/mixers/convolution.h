// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/mixers/mixer.h"

namespace elapse {

// The causal depthwise convolution of the Mamba mixers with bias (may be empty) and SiLU, or
// without one, from the state's part "conv" and into it, passing the points below. x (tokens,
// d_inner), weight (d_inner, 1, d_conv) -> (tokens, d_inner).
Var convolve(Tape& tape, const Mixer& mixer, const Var& x, const Var& weight, const Var& bias,
             const Sequences& seqs, const LayerState* state, const PointScope& points,
             bool silu = true);

// conv_state, conv_term.0 (of the token itself) ... conv_term.{d_conv - 1} and their sum, conv.
std::vector<PointInfo> convolution_points(int64_t d_conv);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

// What mixers that share a kernel count alike: multiplications and additions of forward, for one
// token, as the cpu's kernels plan them.
namespace elapse {

// Sequences of `length` tokens in a step; what is made of parameters alone they share.
struct StepShape {
  int64_t length = 0;
  int64_t sequences = 1;
};

// A channel's causal convolution with a filter of `taps` numbers by Fourier transforms of n =
// length + taps complex numbers, 17/4 n log2(n) operations each in steps of radix 4: two sequences
// are one signal, transformed, multiplied and transformed back; and the filter's once a step.
double convolution_operations(const StepShape& step, int64_t taps);

// The state-space dual (ops/ssd.h) in chunks of c tokens, the least of SsdInputs::kChunk and the
// length: of every channel the states read and written and half the chunk before it, and of every
// group the products of C and B within the chunk.
double ssd_operations(const StepShape& step, int64_t d_inner, int64_t d_state, int64_t n_groups);

}  // namespace elapse

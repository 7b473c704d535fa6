// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "elapse/ops/sequences.h"

namespace elapse::cpu {

// The least 2^k or 3 2^k, at least 4, that holds `count`: less than a third of it is for nothing.
int64_t transform_size(int64_t count);

// Multiplications and additions of one complex transform of such a size.
int64_t transform_operations(int64_t size);

// Sequences whose convolutions go by transforms of one size, two together: a filter is real, so one
// sequence can be the real part of a complex signal and the next the imaginary part.
struct ConvolutionGroup {
  int64_t size = 0;                // of the transform
  int64_t filter_len = 0;          // as much of the filter as the longest sequence meets
  std::vector<int64_t> sequences;  // in their order
  std::vector<float> roots;        // exp(-2 pi i k / size), (size, 2)

  int64_t pairs() const { return (static_cast<int64_t>(sequences.size()) + 1) / 2; }
};

// For those of the sequences that are listed and not empty.
std::vector<ConvolutionGroup> convolution_groups(const Sequences& seqs,
                                                 const std::vector<int64_t>& listed,
                                                 int64_t filter_len);

int64_t largest_transform(const std::vector<ConvolutionGroup>& groups);

}  // namespace elapse::cpu

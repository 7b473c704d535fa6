// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/backends/cpu/convolution_plan.h"
#include "elapse/ops/diagonal_ssm.h"

namespace elapse::cpu {

// Which sequences of a call are convolved, and which run through the recurrence: shapes and slots
// alone decide. Convolutions pay for the filter once, which is a sequence through the recurrence
// itself, and then len log len for each sequence. Those with slots run: their states' part in the
// output, and the states they leave, would cost as much again.
struct SsmPlan {
  std::vector<ConvolutionGroup> groups;
  std::vector<bool> convolved;  // by sequence
  int64_t filter_len = 0;       // the longest that is convolved; 0: none is
};

SsmPlan ssm_plan(const DiagonalSsmInputs& in);

// Multiplications and additions of a channel, forward and backward: of a sequence through the
// recurrence, and of two sequences of this length through their transforms, the filter's apart.
int64_t recurrence_operations(int64_t len, int64_t n_states, bool is_complex);
int64_t pair_operations(int64_t len);

}  // namespace elapse::cpu

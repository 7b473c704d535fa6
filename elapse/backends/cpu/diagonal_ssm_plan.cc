// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cpu/diagonal_ssm_plan.h"

#include <algorithm>

namespace elapse::cpu {

int64_t recurrence_operations(int64_t len, int64_t n_states, bool is_complex) {
  // Forward 14 of a complex state and 5 of a real one; the states again, and backward.
  return len * n_states * (is_complex ? 14 + 10 + 32 : 5 + 3 + 11);
}

int64_t pair_operations(int64_t len) {
  const int64_t size = transform_size(2 * len - 1);
  return 5 * transform_operations(size) + size * (6 + 6 + 8);
}

SsmPlan ssm_plan(const DiagonalSsmInputs& in) {
  const auto operations = [&](int64_t len) {
    return recurrence_operations(len, in.n_states(), in.is_complex());
  };
  std::vector<int64_t> without_slots;
  int64_t longest = 0, run = 0, convolve = 0;
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const auto at = static_cast<size_t>(s);
    if (in.seqs.starts[at] >= 0 || in.seqs.ends[at] >= 0) continue;
    without_slots.push_back(s);
    longest = std::max(longest, in.seqs.lengths[at]);
    run += operations(in.seqs.lengths[at]);
  }
  SsmPlan plan;
  plan.convolved.resize(in.seqs.lengths.size(), false);
  std::vector<ConvolutionGroup> groups = convolution_groups(in.seqs, without_slots, longest);
  for (const ConvolutionGroup& group : groups) {
    convolve += (group.pairs() + 1) * pair_operations((group.size + 1) / 2);
  }
  if (operations(longest) + convolve >= run) return plan;
  plan.groups = std::move(groups);
  plan.filter_len = longest;
  for (const int64_t s : without_slots) {
    const auto at = static_cast<size_t>(s);
    plan.convolved[at] = in.seqs.lengths[at] > 0;
  }
  return plan;
}

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

namespace elapse {

// How Llama 3.1 stretches rotary positions for texts longer than those it was first trained on
// (transformers' rope_type "llama3"). Of a pair of channels that turns w times in
// `original_positions` the frequency is
//   as it was where w > high_turns;  divided by `factor` where w < low_turns
//   and in between a mean of both, weighted linearly in w.
struct RopeScaling {
  double factor = 1;  // 1: positions are not stretched
  double low_turns = 1, high_turns = 4;
  int64_t original_positions = 8192;

  bool operator==(const RopeScaling&) const = default;
};

// Radians a position, of pair i: theta^(-2 i / head_dim), stretched.
std::vector<double> rotary_frequencies(int64_t head_dim, double theta, const RopeScaling& scaling);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace elapse {

std::vector<double> rotary_frequencies(int64_t head_dim, double theta, const RopeScaling& scaling) {
  std::vector<double> list;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double plain =
        std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double turns =
        plain * static_cast<double>(scaling.original_positions) / (2 * std::numbers::pi);
    const double kept = std::clamp(
        (turns - scaling.low_turns) / (scaling.high_turns - scaling.low_turns), 0.0, 1.0);
    list.push_back(scaling.factor == 1 ? plain
                                       : kept * plain + (1 - kept) * plain / scaling.factor);
  }
  return list;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace elapse {

// What the universal-AND experiment draws, each from streams of its own (core/random.h).
enum class RandomUse : uint8_t {
  construction_sets = 1,
  construction_inputs,
  readout_examples,
  readout_weights,
  readout_sets,
  net_weights,
  net_targets,
  net_batches,
  net_test,
  net_sets,
};

inline constexpr int64_t kLargestWidth = int64_t{1} << 20;  // of a layer

constexpr uint64_t stream_of(RandomUse use, int64_t n = 0) {
  return static_cast<uint64_t>(use) << 56 | static_cast<uint64_t>(n);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>

#include "apps/elapse/bench/benchmark.h"

// What benchmarks of operations on a GPU share.
namespace elapse::bench {

inline constexpr Measure kMicroseconds{Measure::Kind::time, "us", 1e-6};

// Launches follow each other, the host waits after many: the least of several such runs, a launch.
double seconds_a_launch(Device& device, const std::function<void()>& call);

// Numbers of [lo, hi) in `dtype`.
Tensor drawn(Device& device, DType dtype, Shape shape, double lo = -1, double hi = 1);

// Exponentials and reciprocals that the selective scan's kernels take for a channel of a token.
constexpr double scan_special_functions(int64_t d_state, bool forward) {
  return static_cast<double>(forward ? d_state + 3 : 2 * d_state + 7);
}

}  // namespace elapse::bench

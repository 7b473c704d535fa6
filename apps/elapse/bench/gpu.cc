// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/gpu.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "apps/elapse/bench/inputs.h"
#include "elapse/core/convert.h"

namespace elapse::bench {

double seconds_a_launch(Device& device, const std::function<void()>& call) {
  constexpr int kLaunches = 20, kRuns = 7;
  double least = std::numeric_limits<double>::infinity();
  call();
  for (int run = 0; run < kRuns; ++run) {
    device.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kLaunches; ++i) call();
    device.synchronize();
    const auto end = std::chrono::steady_clock::now();
    least = std::min(least, std::chrono::duration<double>(end - begin).count() / kLaunches);
  }
  return least;
}

Tensor drawn(Device& device, DType dtype, Shape shape, double lo, double hi) {
  const Tensor wide = uniform(device, shape, lo, hi);
  if (dtype == DType::f32) return wide;
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  std::vector<uint16_t> narrow(values.size());
  device.download_bytes(wide, values.data());
  convert_elements(DType::f32, values.data(), dtype, narrow.data(), shape.numel());
  return device.upload_bytes(narrow.data(), dtype, shape);
}

}  // namespace elapse::bench

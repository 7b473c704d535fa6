// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/gpu.h"

#include <algorithm>
#include <chrono>

#include "apps/elapse/bench/inputs.h"
#include "elapse/core/convert.h"

namespace elapse::bench {

namespace {

double seconds_a_launch(Device& device, const std::function<void()>& call, int launches) {
  device.synchronize();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < launches; ++i) call();
  device.synchronize();
  const auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(end - begin).count() / launches;
}

}  // namespace

double seconds_a_launch(Device& device, const std::function<void()>& call) {
  constexpr double kMostLaunches = 20, kSecondsOfARun = 0.1;  // one launch at least
  constexpr int kRuns = 7;
  call();
  double least = seconds_a_launch(device, call, 1);
  const auto launches = static_cast<int>(std::clamp(kSecondsOfARun / least, 1.0, kMostLaunches));
  for (int run = 0; run < kRuns; ++run) {
    least = std::min(least, seconds_a_launch(device, call, launches));
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

// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/context.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace elapse::bench {
namespace {

constexpr double kSecondsPerCall = 0.8;  // spent on each, unless kLeastRounds take longer
constexpr int kLeastRounds = 3;

double seconds_of(const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

std::vector<double> least_seconds(const std::vector<std::function<void()>>& calls) {
  for (const auto& call : calls) call();
  std::vector<double> least(calls.size(), std::numeric_limits<double>::infinity());
  const double budget = kSecondsPerCall * static_cast<double>(calls.size());
  double spent = 0;
  for (int round = 0; round < kLeastRounds || spent < budget; ++round) {
    for (size_t i = 0; i < calls.size(); ++i) {
      const double seconds = seconds_of(calls[i]);
      least[i] = std::min(least[i], seconds);
      spent += seconds;
    }
  }
  return least;
}

Context::Context(std::string_view device, const std::vector<int>& threads) {
  for (const int n : threads) devices_.push_back(std::make_unique<Device>(device, n));
}

double Context::rate(Limit limit, size_t i) {
  std::vector<double>& rates = rates_[static_cast<size_t>(limit)];
  if (rates.empty()) {
    LimitProbe probe(limit);
    const std::vector<double> seconds = time([&](Device& d) { probe.run(d.threads()); });
    for (const double s : seconds) rates.push_back(probe.amount() / s);
  }
  return rates[i];
}

double Context::gpu_rate(GpuLimit limit) {
  double& rate = gpu_rates_[static_cast<size_t>(limit)];
  if (rate == 0) rate = measured_rate(any_device(), limit);
  return rate;
}

double Context::memory_rate(size_t i) {
  return std::max(rate(Limit::read, i), rate(Limit::copy, i));
}

double Context::floor_seconds(const Work& work, size_t i) {
  double seconds = 0;
  const auto allow = [&](double amount, auto rate_of) {
    if (amount > 0) seconds = std::max(seconds, amount / rate_of());
  };
  allow(work.bytes, [&] { return memory_rate(i); });
  allow(work.cached_bytes, [&] { return rate(Limit::read_cached, i); });
  allow(work.multiplications, [&] { return rate(Limit::multiply_f32, i); });
  return seconds;
}

double Context::floor_seconds(const GpuWork& work) {
  const GpuLimit products =
      work.dtype == DType::bf16 ? GpuLimit::products_bf16 : GpuLimit::products_f32;
  return std::max({work.bytes / gpu_rate(GpuLimit::copy), work.multiplications / gpu_rate(products),
                   work.special_functions / gpu_rate(GpuLimit::special_functions)});
}

std::vector<double> Context::time(const std::function<void(Device&)>& call) const {
  std::vector<std::function<void()>> calls;
  for (const auto& device : devices_) {
    calls.push_back([&call, &d = *device] {
      call(d);
      d.synchronize();
    });
  }
  return least_seconds(calls);
}

}  // namespace elapse::bench

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/elapse/bench/gpu_machine.h"
#include "apps/elapse/bench/machine.h"
#include "elapse/ops/device.h"

namespace elapse::bench {

// Least wall seconds of one run of each call. After a run of each that does not count, they are run
// in turn, so that whatever else the machine does meets all of them alike; the least is what
// disturbs a shared machine's times least.
std::vector<double> least_seconds(const std::vector<std::function<void()>>& calls);

// The least a computation has to do: bytes to and from memory, each once; bytes of what stays in
// the caches; multiplications, with or without an addition in the same instruction.
struct Work {
  double bytes = 0;
  double cached_bytes = 0;
  double multiplications = 0;
};

// The same on a GPU.
struct GpuWork {
  double bytes = 0;            // to and from its memory, each once
  double multiplications = 0;  // of matrices of `dtype`
  DType dtype = DType::bf16;
  double special_functions = 0;
};

// What benchmarks run on: one device for every number of threads, and what this machine can do with
// that many. Devices share their memory: tensors of one can be given to another.
class Context {
 public:
  Context(std::string_view device, const std::vector<int>& threads);

  size_t size() const { return devices_.size(); }
  Device& device(size_t i) const { return *devices_[i]; }
  Device& any_device() const { return *devices_.front(); }

  // Best rate in bytes or multiplications a second; measured when first asked for.
  double rate(Limit limit, size_t i);
  double gpu_rate(GpuLimit limit);  // of a GPU
  // Memory and arithmetic may overlap: the longest of their times.
  double floor_seconds(const Work& work, size_t i);
  double floor_seconds(const GpuWork& work);

  // least_seconds of `call` on each device.
  std::vector<double> time(const std::function<void(Device&)>& call) const;

 private:
  double memory_rate(size_t i);  // of reading or copying, whichever is faster

  std::vector<std::unique_ptr<Device>> devices_;
  std::array<std::vector<double>, kLimits> rates_;  // by device
  std::array<double, kGpuLimits> gpu_rates_ = {};   // 0: not measured
};

}  // namespace elapse::bench

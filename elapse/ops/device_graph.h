// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>

#include "elapse/ops/device.h"

namespace elapse {

// What some work launched on a device, to be launched again as one: the same kernels on the same
// memory. Tensors that the work made are the graph's: no other work is given their memory, and
// those that the caller has kept hold the last replay's results. Tensors that were there before,
// and the device, must outlive the graph.
class DeviceGraph {
 public:
  // Records without running. The device has_graphs(). Work that waits for the device, or copies
  // from the host or to it, is an Error: what it reads stands in tensors that were there before.
  DeviceGraph(Device& device, const std::function<void()>& work);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  void replay();  // starts it, in the order of the device's stream

 private:
  Device& device_;
  Pool pool_;
  void* graph_ = nullptr;
};

}  // namespace elapse

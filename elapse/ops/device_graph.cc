// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/device_graph.h"

#include <cassert>
#include <exception>
#include <utility>

namespace elapse {

DeviceGraph::DeviceGraph(Device& device, const std::function<void()>& work)
    : device_(device), pool_(device.backend_->memory(), device.pool_) {
  assert(device.has_graphs());
  const Backend& backend = *device.backend_;
  backend.begin_graph(device.stream_);
  std::swap(device.pool_, pool_);
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  std::swap(device.pool_, pool_);
  if (!failure) {
    graph_ = backend.end_graph(device.stream_);
    return;
  }
  try {
    backend.destroy_graph(backend.end_graph(device.stream_));
  } catch (const Error&) {
  }  // what went wrong first is what is told
  std::rethrow_exception(failure);
}

DeviceGraph::~DeviceGraph() { device_.backend_->destroy_graph(graph_); }

void DeviceGraph::replay() { device_.backend_->launch_graph(device_.stream_, graph_); }

}  // namespace elapse

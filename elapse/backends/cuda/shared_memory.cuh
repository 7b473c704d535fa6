// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {

// Has a kernel take `bytes` of shared memory a block, where the GPU has as much.
template <class... Parameters>
bool grant(void (*kernel)(Parameters...), int bytes, std::string_view name) {
  int device = 0, most = 0;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), name);
  if (bytes > most) return false;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  return true;
}

// launch() of a kernel that takes as much; throws Error where the GPU has less.
template <class... Parameters, class... Args>
void launch_granted(const Device& device, std::string_view name, void (*kernel)(Parameters...),
                    dim3 grid, int threads, size_t bytes, const Args&... args) {
  ELAPSE_CHECK(grant(kernel, static_cast<int>(bytes), name),
               "{}: the GPU has less than {} bytes of shared memory a block", name, bytes);
  launch(device, name, kernel, grid, threads, static_cast<int>(bytes), args...);
}

}  // namespace elapse::cuda

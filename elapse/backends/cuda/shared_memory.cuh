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

}  // namespace elapse::cuda

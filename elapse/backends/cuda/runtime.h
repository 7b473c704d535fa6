// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <vector>

#include "elapse/backends/cuda/blas.h"
#include "elapse/ops/device.h"

// What kernels of the cuda backend share on the host's side.
namespace elapse::cuda {

// Activations of 16 bits. Kernels widen what they read, compute in float and round what they write.
using bf16 = __nv_bfloat16;

// What a Device of this backend keeps as its stream. Work is ordered by the one stream: memory that
// a tensor gives back may be taken again at once.
struct Context {
  cudaStream_t stream = nullptr;
  cublasHandle_t blas = nullptr;
  void* blas_workspace = nullptr;  // fixed: cuBLAS repeats its bits only with one of our own
  bool records = false;            // a graph: nothing runs
  bool in_chain = false;           // the last launch was a chain's (launch.cuh)
  std::vector<const void*> chain_states = {};  // pools that its launches have named
};

inline Context& context_of(const Device& device) { return *static_cast<Context*>(device.stream()); }

// Throws Error, saying what was being done, unless all is well.
void check(cudaError_t status, std::string_view doing);

void* create_context();
void destroy_context(void* context);
MemorySource& device_memory();
MemorySource& pinned_memory();  // the host's, at one address for both
std::string describe();

}  // namespace elapse::cuda

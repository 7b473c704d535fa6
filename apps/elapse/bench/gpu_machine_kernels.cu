// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "apps/elapse/bench/gpu_machine_kernels.h"

namespace elapse::bench {
namespace {

constexpr int kThreads = 256, kBlocks = 16 * 1024, kChains = 8, kRounds = 128;

// 2^-x over and over, as many chains a thread as hide their latency.
__global__ void special_functions(float* never) {
  float x[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) x[i] = static_cast<float>(threadIdx.x + i);
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (float& v : x) asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(-v));
  }
  float sum = 0;
#pragma unroll
  for (const float v : x) sum += v;
  if (sum < 0) *never = sum;  // keeps the compiler from leaving out what nobody reads
}

}  // namespace

const char* run_special_functions() {
  special_functions<<<kBlocks, kThreads>>>(nullptr);
  const cudaError_t status = cudaDeviceSynchronize();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

double special_functions_of_a_run() { return double{kBlocks} * kThreads * kChains * kRounds; }

}  // namespace elapse::bench

// SPDX-License-Identifier: Apache-2.0
// Bound: memory, 12 bytes a number of a sequence's state each way.
#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/slots.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void take_kernel(float* dpool, const int64_t* end_slots, int64_t width, float* dend) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i >= width) return;
  const int64_t slot = end_slots[s];
  dend[s * width + i] = slot < 0 ? 0.0f : dpool[slot * width + i];
  if (slot >= 0) dpool[slot * width + i] = 0;
}

__global__ void give_kernel(float* dpool, const int64_t* start_slots, int64_t n_seqs, int64_t width,
                            const float* dstart) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= width) return;
  for (int64_t s = 0; s < n_seqs; ++s) {
    const int64_t slot = start_slots[s];
    if (slot >= 0) dpool[slot * width + i] += dstart[s * width + i];
  }
}

int64_t width_of(const Tensor& dpool) { return dpool.numel() / std::max<int64_t>(1, dpool.dim(0)); }

}  // namespace

Tensor take_end_gradients(Device& device, const Tensor& dpool, const Sequences& seqs) {
  const int64_t width = width_of(dpool);
  const Tensor dend = device.empty(DType::f32, {seqs.count(), width});
  launch(device, "take_end_gradients", take_kernel,
         grid_of(seqs.count(), divide_up(width, kThreads)), kThreads, 0, dpool.data<float>(),
         seqs.end_slots.data<int64_t>(), width, dend.data<float>());
  return dend;
}

void give_start_gradients(Device& device, const Tensor& dstart, const Sequences& seqs,
                          const Tensor& dpool) {
  const int64_t width = width_of(dpool);
  launch(device, "give_start_gradients", give_kernel, grid_of(divide_up(width, kThreads)), kThreads,
         0, dpool.data<float>(), seqs.start_slots.data<int64_t>(), seqs.count(), width,
         dstart.data<float>());
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// Rows of a table. Bound: memory, 8 bytes an element. Adding in the order of i without atomics: the
// block of a row's first index finds the later ones itself. That reads the indices once a block,
// count^2 / 2 words from the L2 cache: 0.2 ms for 16384 tokens.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void gather_kernel(const T* table, const int64_t* index, Rows<float> out,
                              int64_t width) {
  const T* row = table + index[blockIdx.x] * width;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    out(blockIdx.x, j) = static_cast<float>(row[j]);
  }
}

template <class T>
void gather(Device& device, const GatherRows& a) {
  launch(device, name_of(a.kOp), gather_kernel<T>, grid_of(a.out.numel() == 0 ? 0 : a.out.dim(0)),
         kThreads, 0, static_cast<const T*>(a.table.raw()), a.index.data<int64_t>(),
         Rows<float>(a.out), a.out.dim(1));
}

__global__ void scatter_kernel(Rows<const float> dout, const int64_t* index, int64_t count,
                               Rows<float> dtable, int64_t width) {
  __shared__ bool same[kThreads];
  const int64_t first = blockIdx.x, row = index[first];
  for (int64_t begin = 0; begin < first; begin += kThreads) {
    const int64_t i = begin + threadIdx.x;
    if (__syncthreads_or(i < first && index[i] == row)) return;  // another block's row
  }
  for (int64_t begin = first; begin < count; begin += kThreads) {
    const int64_t i = begin + threadIdx.x;
    same[threadIdx.x] = i < count && index[i] == row;
    if (!__syncthreads_or(same[threadIdx.x])) continue;
    for (int64_t j = threadIdx.x; j < width; j += kThreads) {
      float sum = dtable(row, j);
      for (int k = 0; k < kThreads; ++k) {
        if (same[k]) sum += dout(begin + k, j);
      }
      dtable(row, j) = sum;
    }
    __syncthreads();
  }
}

}  // namespace

void gather_rows(Device& device, const GatherRows& a) {
  switch (a.table.dtype()) {
    case DType::bf16:
      return gather<__nv_bfloat16>(device, a);
    case DType::f16:
      return gather<__half>(device, a);
    default:
      return gather<float>(device, a);
  }
}

void scatter_add_rows(Device& device, const ScatterAddRows& a) {
  launch(device, name_of(a.kOp), scatter_kernel, grid_of(a.dout.numel() == 0 ? 0 : a.dout.dim(0)),
         kThreads, 0, Rows<const float>(a.dout), a.index.data<int64_t>(), a.index.numel(),
         Rows<float>(a.dtable), a.dout.dim(1));
}

}  // namespace elapse::cuda

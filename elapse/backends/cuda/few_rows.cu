// SPDX-License-Identifier: Apache-2.0
// Linear maps of a few rows, as decoding has them: a warp an output, whose weights it reads once,
// in the dtype they are kept in, for all rows. Bound: memory, the weights.
#include <cuda_fp16.h>

#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/linear.h"

namespace elapse::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kRun = 8;  // elements that a lane reads at a time

__device__ void load_run(const float* at, float (&out)[kRun]) {
  const auto* fours = reinterpret_cast<const float4*>(at);
  const float4 a = fours[0], b = fours[1];
  const float values[kRun] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  for (int i = 0; i < kRun; ++i) out[i] = values[i];
}

template <class T>
__device__ void load_run(const T* at, float (&out)[kRun]) {
  struct alignas(16) Run {
    T of[kRun];
  };
  const Run run = *reinterpret_cast<const Run*>(at);
  for (int i = 0; i < kRun; ++i) out[i] = static_cast<float>(run.of[i]);
}

template <int kRows, class X, class W, class Y>
__global__ void few_rows_kernel(Rows<const X> x, const W* weight, const float* bias, Rows<Y> y,
                                int64_t rows, int64_t in, int64_t out) {
  const int64_t o = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (o >= out) return;
  float sums[kRows] = {};
#pragma unroll 4
  for (int64_t k = kRun * lane; k < in; k += kRun * 32) {
    float w[kRun];
    load_run(weight + o * in + k, w);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      float v[kRun];
      load_run(x.row(r) + k, v);
      for (int i = 0; i < kRun; ++i) sums[r] = fmaf(w[i], v[i], sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    for (int step = 16; step > 0; step /= 2) sums[r] += __shfl_xor_sync(~0u, sums[r], step);
    const float sum = bias == nullptr ? sums[r] : sums[r] + bias[o];
    if (lane == 0 && r < rows) y(r, o) = static_cast<Y>(sum);
  }
}

template <int kRows, class X, class W, class Y>
void run(Device& device, const LinearForward& a) {
  const int64_t out = a.weight.dim(0);
  launch(device, name_of(a.kOp), few_rows_kernel<kRows, X, W, Y>, grid_of(divide_up(out, kWarps)),
         32 * kWarps, 0, Rows<const X>(a.x), static_cast<const W*>(a.weight.raw()),
         a.bias ? a.bias.data<float>() : nullptr, Rows<Y>(a.y), a.x.dim(0), a.x.dim(1), out);
}

template <class X, class W, class Y>
void run_rows(Device& device, const LinearForward& a) {
  if (a.x.dim(0) == 1) run<1, X, W, Y>(device, a);
  else run<kFewRows, X, W, Y>(device, a);
}

bool has_runs(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 &&
         (t.dim(0) <= 1 || t.stride(0) % kRun == 0);
}

}  // namespace

bool linear_of_few_rows(Device& device, const LinearForward& a) {
  const int64_t rows = a.x.dim(0), in = a.x.dim(1);
  if (rows > kFewRows || in == 0 || in % kRun != 0 || !has_runs(a.x) || !has_runs(a.weight)) {
    return false;
  }
  const DType weight = a.weight.dtype();
  if (a.x.dtype() == DType::bf16) {
    if (weight != DType::bf16) return false;
    if (a.y.dtype() == DType::bf16) run_rows<bf16, bf16, bf16>(device, a);
    else run_rows<bf16, bf16, float>(device, a);
  } else if (weight == DType::bf16) {
    run_rows<float, bf16, float>(device, a);
  } else if (weight == DType::f16) {
    run_rows<float, __half, float>(device, a);
  } else {
    run_rows<float, float, float>(device, a);
  }
  return true;
}

}  // namespace elapse::cuda

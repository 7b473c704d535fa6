// SPDX-License-Identifier: Apache-2.0
// Linear maps of a few rows, as decoding has them: kLanes threads an output, whose weights they
// read once, in the dtype they are kept in, for all rows. Bound: memory, the weights; the first of
// them are read while the kernel before still runs.
#include <cuda_fp16.h>

#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/linear.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRun = 8;    // elements that a lane reads at a time
constexpr int kAhead = 4;  // runs of weights that it reads before it uses the first

template <class T>
struct alignas(16) Run {
  T of[kRun];
};

template <class T>
__device__ Run<T> load_run(const T* at) {
  return *reinterpret_cast<const Run<T>*>(at);
}

// Weights pass through: nobody reads them again soon.
template <class T>
__device__ Run<T> load_weights(const T* at) {
  Run<T> run;
  const auto* from = reinterpret_cast<const uint4*>(at);
  auto* into = reinterpret_cast<uint4*>(&run);
  for (size_t i = 0; i < sizeof(run) / sizeof(uint4); ++i) into[i] = __ldcs(from + i);
  return run;
}

// The sum over an output's lanes, in its first.
template <int kLanes>
__device__ float sum_of_lanes(float value) {
  for (int step = (kLanes < 32 ? kLanes : 32) / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(~0u, value, step);
  }
  if constexpr (kLanes > 32) {
    __shared__ float of_warp[kThreads / 32];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();  // the sum before this one was read
    if (threadIdx.x % 32 == 0) of_warp[warp] = value;
    __syncthreads();
    if (threadIdx.x % kLanes == 0) {
      for (int w = 1; w < kLanes / 32; ++w) value += of_warp[warp + w];
    }
  }
  return value;
}

template <int kRows, int kLanes, class X, class W, class Y>
__global__ void __launch_bounds__(kThreads)
    few_rows_kernel(Rows<const X> x, const W* weight, const float* bias, Rows<Y> y, int rows,
                    int in, int64_t out) {
  constexpr int kStep = kRun * kLanes;
  start_next();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t o = blockIdx.x * int64_t{kThreads / kLanes} + threadIdx.x / kLanes;
  const bool is_there = o < out;
  const W* row = weight + (is_there ? o : out - 1) * in;
  Run<W> ahead[kAhead];
#pragma unroll
  for (int k = 0; k < kAhead; ++k) {
    const int at = kRun * lane + k * kStep;
    if (at < in) ahead[k] = load_weights(row + at);
  }
  const float offset = bias != nullptr && is_there ? bias[o] : 0.0f;
  wait_for_earlier();
  float sums[kRows][2] = {};  // of even and of odd columns
  for (int begin = kRun * lane; begin < in; begin += kAhead * kStep) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int at = begin + k * kStep;
      if (at >= in) break;
      const Run<W> w = ahead[k];
      if (at + kAhead * kStep < in) ahead[k] = load_weights(row + at + kAhead * kStep);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) break;
        const Run<X> v = load_run(x.row(r) + at);
        for (int i = 0; i < kRun; ++i) {
          sums[r][i % 2] = fmaf(static_cast<float>(w.of[i]), static_cast<float>(v.of[i]),
                                sums[r][i % 2]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float sum = sum_of_lanes<kLanes>(sums[r][0] + sums[r][1]);
    if (lane == 0 && is_there && r < rows) {
      y(r, o) = static_cast<Y>(bias == nullptr ? sum : sum + offset);
    }
  }
}

template <int kRows, int kLanes, class X, class W, class Y>
void run(Device& device, const LinearForward& a) {
  const int64_t out = a.weight.dim(0);
  launch_in_chain(device, name_of(a.kOp), few_rows_kernel<kRows, kLanes, X, W, Y>,
                  grid_of(divide_up(out, kThreads / kLanes)), kThreads, Rows<const X>(a.x),
                  static_cast<const W*>(a.weight.raw()), a.bias ? a.bias.data<float>() : nullptr,
                  Rows<Y>(a.y), static_cast<int>(a.x.dim(0)), static_cast<int>(a.x.dim(1)), out);
}

// Few lanes for a short map, whose blocks would else be many; four warps where there are few outputs to fill the GPU with.
template <int kRows, class X, class W, class Y>
void run_lanes(Device& device, const LinearForward& a) {
  const int64_t runs = a.x.dim(1) / kRun;
  if (runs <= 8 * kAhead) run<kRows, 8, X, W, Y>(device, a);
  else if (runs >= 128 && a.weight.dim(0) < 4096) run<kRows, 128, X, W, Y>(device, a);
  else run<kRows, 32, X, W, Y>(device, a);
}

template <class X, class W, class Y>
void run_rows(Device& device, const LinearForward& a) {
  if (a.x.dim(0) == 1) run_lanes<1, X, W, Y>(device, a);
  else run_lanes<kFewRows, X, W, Y>(device, a);
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

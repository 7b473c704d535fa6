// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/launch.cuh"

// Products of a few rows with a matrix (out, in) of which every number is read once, as kernels of
// a chain have them. kLanes threads of a block of kThreads take kOut outputs; the first kAhead runs
// of their weights are read before the kernel waits for its x.
namespace elapse::cuda {

inline constexpr int kRun = 8;  // elements that a lane reads at a time

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

template <class W, class X>
__device__ float add_products(const Run<W>& w, const Run<X>& x, float sum) {
  for (int i = 0; i < kRun; ++i) {
    sum = fmaf(static_cast<float>(w.of[i]), static_cast<float>(x.of[i]), sum);
  }
  return sum;
}

template <int kLanes, int kThreads, int kOut, int kAhead, class W>
class WeightRows {
 public:
  static constexpr int kOutputs = kThreads / kLanes * kOut;  // of a block

  // `out` is kOut at least: where it is no multiple, some outputs are computed twice.
  __device__ WeightRows(const W* weight, int in, int64_t out)
      : in_(in), lane_(static_cast<int>(threadIdx.x) % kLanes) {
    const int64_t group = blockIdx.x * int64_t{kThreads / kLanes} + threadIdx.x / kLanes;
    first_ = min(group * kOut, out - kOut);
    rows_ = weight + first_ * in;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int at = kRun * lane_ + k * kStep;
      if (at < in) load(at, ahead_[k]);
    }
  }

  __device__ int64_t first() const { return first_; }  // output of the lanes'
  __device__ int lane() const { return lane_; }

  // sums[r][j]: of row r and output first() + j, the lane's share.
  template <int kRows, class X>
  __device__ void multiply(const Rows<const X>& x, int rows, float (&sums)[kRows][kOut]) {
    for (int begin = kRun * lane_; begin < in_; begin += kAhead * kStep) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int at = begin + k * kStep;
        if (at >= in_) break;
        Run<W> now[kOut];
#pragma unroll
        for (int j = 0; j < kOut; ++j) now[j] = ahead_[k][j];
        if (at + kAhead * kStep < in_) load(at + kAhead * kStep, ahead_[k]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r >= rows) break;
          const Run<X> v = load_run(x.row(r) + at);
#pragma unroll
          for (int j = 0; j < kOut; ++j) sums[r][j] = add_products(now[j], v, sums[r][j]);
        }
      }
    }
  }

 private:
  static constexpr int kStep = kRun * kLanes;

  __device__ void load(int at, Run<W> (&into)[kOut]) const {
#pragma unroll
    for (int j = 0; j < kOut; ++j) into[j] = load_weights(rows_ + int64_t{j} * in_ + at);
  }

  int in_, lane_;
  int64_t first_;
  const W* rows_;
  Run<W> ahead_[kAhead][kOut];
};

// Adds up the shares of lanes and calls take(row, j, sum) once for each row and output of them, on
// whichever thread has it: with more lanes than a warp thread j of the lanes, for every row.
template <int kLanes, int kThreads, int kRows, int kOut, class Take>
__device__ void sum_lanes_of(float (&sums)[kRows][kOut], int lane, Take&& take) {
  for (int step = (kLanes < 32 ? kLanes : 32) / 2; step > 0; step /= 2) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < kOut; ++j) sums[r][j] += __shfl_xor_sync(~0u, sums[r][j], step);
    }
  }
  if constexpr (kLanes <= 32) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < kOut; ++j) {
        if (lane == 0) take(r, j, sums[r][j]);
      }
    }
  } else {
    __shared__ float of_warp[kThreads / 32][kRows][kOut];
    const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < kOut; ++j) {
        if (threadIdx.x % 32 == 0) of_warp[warp][r][j] = sums[r][j];
      }
    }
    __syncthreads();
    if (lane >= kOut) return;
    const int first = warp / (kLanes / 32) * (kLanes / 32);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = 0;
      for (int w = 0; w < kLanes / 32; ++w) sum += of_warp[first + w][r][lane];
      take(r, lane, sum);
    }
  }
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cuda_pipeline.h>

#include "elapse/backends/cuda/launch.cuh"

// Products of a few rows with a matrix (out, in) of which every number is read once, as kernels of
// a chain have them: a block takes kOut outputs, whose weights it copies into its memory before it
// waits for x, so that the device's memory is read while smaller kernels run.
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

// Bytes that follow each other, a multiple of 16, copied into the block's memory by one engine for
// all of them where there is one (from compute capability 9.0 on), else by all threads.
class BlockCopy {
 public:
  // `arrived` stands in the block's memory, and is for one copy.
  __device__ BlockCopy(uint64_t* arrived, void* to, const void* from, int bytes)
      : arrived_(static_cast<unsigned>(__cvta_generic_to_shared(arrived))) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(arrived_) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(arrived_), "r"(bytes)
                   : "memory");
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
          "l"(from), "r"(bytes), "r"(arrived_)
          : "memory");
    }
    __syncthreads();
#else
    for (int i = 16 * static_cast<int>(threadIdx.x); i < bytes;
         i += 16 * static_cast<int>(blockDim.x)) {
      __pipeline_memcpy_async(static_cast<char*>(to) + i, static_cast<const char*>(from) + i, 16);
    }
    __pipeline_commit();
#endif
  }

  // For every thread's part.
  __device__ void wait() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n"
        ".reg .pred has_come;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared.b64 has_come, [%0], 0;\n"
        "@!has_come bra again;\n"
        "}\n" ::"r"(arrived_)
        : "memory");
#else
    __pipeline_wait_prior(0);
    __syncthreads();
#endif
  }

 private:
  unsigned arrived_;
};

inline constexpr int kFewThreads = 128;

template <int kOut, class W>
class WeightRows {
 public:
  static int shared_bytes(int64_t in) { return static_cast<int>(kOut * in * int64_t{sizeof(W)}); }

  // `out` is kOut at least: where it is no multiple, some outputs are computed twice. The block's
  // memory is of shared_bytes(in).
  __device__ WeightRows(const W* weight, int in, int64_t out)
      : in_(in),
        first_(min(blockIdx.x * int64_t{kOut}, out - kOut)),
        copy_(arrived(), rows(), weight + first_ * in, kOut * in * static_cast<int>(sizeof(W))) {}

  __device__ int64_t first() const { return first_; }  // output of the block

  // sums[r][j]: of row r and output first() + j, the thread's share.
  template <int kRows, class X>
  __device__ void multiply(const Rows<const X>& x, int rows_of_x, float (&sums)[kRows][kOut]) {
    // What is read at a time of all rows; more would not fit the registers.
    constexpr int kAhead = kRows == 1 ? 5 : 1;
    bool has_come = false;
    for (int begin = kRun * static_cast<int>(threadIdx.x); begin < in_ || !has_come;
         begin += kAhead * kStep) {
      Run<X> v[kAhead][kRows];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r < rows_of_x && begin + k * kStep < in_)
            v[k][r] = load_run(x.row(r) + begin + k * kStep);
        }
      }
      if (!has_come) copy_.wait();
      has_come = true;
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int at = begin + k * kStep;
        if (at >= in_) break;
#pragma unroll
        for (int j = 0; j < kOut; ++j) {
          const Run<W> w = load_run(rows() + j * in_ + at);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            if (r < rows_of_x) sums[r][j] = add_products(w, v[k][r], sums[r][j]);
          }
        }
      }
    }
  }

 private:
  static constexpr int kStep = kRun * kFewThreads;

  static __device__ W* rows() {
    extern __shared__ __align__(16) unsigned char weight_rows[];
    return reinterpret_cast<W*>(weight_rows);
  }
  static __device__ uint64_t* arrived() {
    __shared__ uint64_t barrier;
    return &barrier;
  }

  int in_;
  int64_t first_;
  BlockCopy copy_;
};

// Adds up the shares of a block's threads and calls take(row, j, sum) for each row and output of
// them, on thread j.
template <int kRows, int kOut, class Take>
__device__ void sum_threads_of(float (&sums)[kRows][kOut], Take&& take) {
  for (int step = 16; step > 0; step /= 2) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < kOut; ++j) sums[r][j] += __shfl_xor_sync(~0u, sums[r][j], step);
    }
  }
  constexpr int kWarps = kFewThreads / 32;
  __shared__ float of_warp[kWarps][kRows][kOut];
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int j = 0; j < kOut; ++j) {
      if (thread % 32 == 0) of_warp[thread / 32][r][j] = sums[r][j];
    }
  }
  __syncthreads();
  if (thread >= kOut) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += of_warp[w][r][thread];
    take(r, thread, sum);
  }
}

}  // namespace elapse::cuda

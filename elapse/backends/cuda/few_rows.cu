// SPDX-License-Identifier: Apache-2.0
// Linear maps of a few rows, as decoding has them: each weight is read once, in the dtype it is
// kept in, for all rows. Bound: memory, the weights.
#include <cuda_fp16.h>

#include "elapse/backends/cuda/few_rows.cuh"
#include "elapse/backends/cuda/linear.h"

namespace elapse::cuda {
namespace {

constexpr int64_t kMostRow = 96 << 10;  // bytes of a row, of which a block's memory holds one

template <int kRows, int kOut, class X, class W, class Y>
__global__ void __launch_bounds__(kFewThreads)
    few_rows_kernel(Rows<const X> x, const W* weight, const float* bias, Rows<Y> y, int rows,
                    int in, int64_t out) {
  start_next();
  WeightRows<kOut, W> weights(weight, in, out);
  wait_for_earlier();
  float sums[kRows][kOut] = {};
  weights.multiply(x, rows, sums);
  sum_threads_of(sums, [&](int r, int j, float sum) {
    const int64_t o = weights.first() + j;
    if (r < rows) y(r, o) = static_cast<Y>(bias == nullptr ? sum : sum + bias[o]);
  });
}

template <int kRows, int kOut, class X, class W, class Y>
void run(Device& device, const LinearForward& a) {
  const int64_t in = a.x.dim(1), out = a.weight.dim(0);
  launch_in_chain(device, name_of(a.kOp), few_rows_kernel<kRows, kOut, X, W, Y>,
                  {.grid = grid_of(divide_up(out, kOut)),
                   .threads = kFewThreads,
                   .shared_bytes = WeightRows<kOut, W>::shared_bytes(in)},
                  Rows<const X>(a.x), static_cast<const W*>(a.weight.raw()),
                  a.bias ? a.bias.data<float>() : nullptr, Rows<Y>(a.y),
                  static_cast<int>(a.x.dim(0)), static_cast<int>(in), out);
}

// As many outputs a block, which share what is read of x, as leave two blocks or more to each of
// 132 multiprocessors and let the blocks of several kernels stand beside each other.
template <int kRows, class X, class W, class Y>
void run_outputs(Device& device, const LinearForward& a) {
  const int64_t most_bytes = 48 << 10, bytes = a.x.dim(1) * int64_t{sizeof(W)};
  const auto suits = [&](int64_t outputs) {
    return a.weight.dim(0) >= outputs * 2 * 132 && bytes * outputs <= most_bytes;
  };
  if (suits(8)) run<kRows, 8, X, W, Y>(device, a);
  else if (suits(4)) run<kRows, 4, X, W, Y>(device, a);
  else if (suits(2)) run<kRows, 2, X, W, Y>(device, a);
  else run<kRows, 1, X, W, Y>(device, a);
}

template <class X, class W, class Y>
void run_rows(Device& device, const LinearForward& a) {
  if (a.x.dim(0) == 1) run_outputs<1, X, W, Y>(device, a);
  else run_outputs<kFewRows, X, W, Y>(device, a);
}

}  // namespace

bool has_runs(const Tensor& t) {
  return is_aligned(t) && (t.dim(0) <= 1 || t.stride(0) % kRun == 0) && t.dim(1) % kRun == 0;
}

bool linear_of_few_rows(Device& device, const LinearForward& a) {
  const int64_t rows = a.x.dim(0), in = a.x.dim(1), out = a.weight.dim(0);
  if (rows == 0 || rows > kFewRows || in == 0 || out == 0 || !has_runs(a.x) ||
      !has_runs(a.weight) || in * size_of(a.weight.dtype()) > kMostRow) {
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

// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp16.h>

#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/matrix_parts.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kRowsOfPart = 64;

template <class T>
__global__ void fill_rows_kernel(const float* row, Rows<T> y, int64_t rows, int64_t width) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < rows * width; i += step) {
    y(i / width, i % width) = static_cast<T>(row == nullptr ? 0.0f : row[i % width]);
  }
}

// Numbers that lie together, as a thread reads and writes them.
template <class T, int kRun>
struct alignas(std::min<size_t>(16, kRun * sizeof(T))) Run {
  T of[kRun];
};

template <int kRun, class From, class To>
__global__ void convert_kernel(const From* from, To* to, int64_t n) {
  const int64_t step = kRun * int64_t{gridDim.x} * blockDim.x;
  int64_t i = kRun * (blockIdx.x * int64_t{blockDim.x} + threadIdx.x);
  for (; i + kRun <= n; i += step) {
    const auto run = *reinterpret_cast<const Run<From, kRun>*>(from + i);
    Run<To, kRun> out;
#pragma unroll
    for (int k = 0; k < kRun; ++k) out.of[k] = static_cast<To>(static_cast<float>(run.of[k]));
    *reinterpret_cast<Run<To, kRun>*>(to + i) = out;
  }
  for (; i < n; ++i) to[i] = static_cast<To>(static_cast<float>(from[i]));
}

template <class From, class To>
void convert(Device& device, const Tensor& from, const Tensor& to) {
  constexpr int kRun = 8;
  const bool aligned = is_aligned(from) && is_aligned(to);
  launch(device, "converting a weight",
         aligned ? convert_kernel<kRun, From, To> : convert_kernel<1, From, To>,
         grid_for(divide_up(from.numel(), aligned ? kRun : 1), kThreads), kThreads, 0,
         static_cast<const From*>(from.raw()), static_cast<To*>(to.raw()), from.numel());
}

template <class From>
void convert_from(Device& device, const Tensor& from, const Tensor& to) {
  if (to.dtype() == DType::bf16) convert<From, bf16>(device, from, to);
  else convert<From, float>(device, from, to);
}

template <class T>
__global__ void column_parts_kernel(Rows<const T> matrix, int64_t rows, int64_t columns,
                                    float* partial) {
  const int64_t column = blockIdx.y * int64_t{blockDim.x} + threadIdx.x;
  if (column >= columns) return;
  const int64_t begin = blockIdx.x * kRowsOfPart;
  const int64_t end = begin + kRowsOfPart < rows ? begin + kRowsOfPart : rows;
  float sum = 0;
  for (int64_t r = begin; r < end; ++r) sum += static_cast<float>(matrix(r, column));
  partial[blockIdx.x * columns + column] = sum;
}

// A block 32 columns; its rows of threads take the parts in turn and are added in their order.
constexpr int kAddingRows = 32;
__global__ void add_parts_kernel(const float* partial, int64_t parts, int64_t columns,
                                 float* sums) {
  __shared__ double of_row[kAddingRows][32];
  const int64_t column = blockIdx.x * int64_t{32} + threadIdx.x % 32;
  const int row = static_cast<int>(threadIdx.x) / 32;
  double sum = 0;
#pragma unroll 4
  for (int64_t part = row; part < parts && column < columns; part += kAddingRows) {
    sum += partial[part * columns + column];
  }
  of_row[row][threadIdx.x % 32] = sum;
  __syncthreads();
  if (row > 0 || column >= columns) return;
  for (int other = 1; other < kAddingRows; ++other) sum += of_row[other][threadIdx.x];
  sums[column] += static_cast<float>(sum);
}

}  // namespace

void fill_rows(Device& device, const Tensor& row, const Tensor& y) {
  const float* values = row ? row.data<float>() : nullptr;
  const dim3 grid = grid_for(y.numel(), kThreads);
  const auto fill = [&]<class T>(T*) {
    launch(device, "fill_rows", fill_rows_kernel<T>, grid, kThreads, 0, values, Rows<T>(y),
           y.dim(0), y.dim(1));
  };
  if (y.dtype() == DType::bf16) fill(static_cast<bf16*>(nullptr));
  else fill(static_cast<float*>(nullptr));
}

Tensor converted(Device& device, const Tensor& weight, DType dtype) {
  if (weight.dtype() == dtype) return weight;
  const Tensor other = device.empty(dtype, weight.shape());
  switch (weight.dtype()) {
    case DType::bf16:
      convert_from<bf16>(device, weight, other);
      break;
    case DType::f16:
      convert_from<__half>(device, weight, other);
      break;
    default:
      convert_from<float>(device, weight, other);
  }
  return other;
}

void add_column_sums(Device& device, const Tensor& matrix, float* sums) {
  const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  if (matrix.numel() == 0) return;
  const int64_t parts = divide_up(rows, kRowsOfPart);
  const Tensor partial = device.empty(DType::f32, {parts, columns});
  const dim3 grid = grid_of(parts, divide_up(columns, kThreads));
  const auto sum = [&]<class T>(T*) {
    launch(device, "column_sums", column_parts_kernel<T>, grid, kThreads, 0, Rows<const T>(matrix),
           rows, columns, partial.data<float>());
  };
  if (matrix.dtype() == DType::bf16) sum(static_cast<bf16*>(nullptr));
  else sum(static_cast<float*>(nullptr));
  add_parts(device, partial.data<float>(), parts, columns, sums);
}

void add_parts(Device& device, const float* partial, int64_t parts, int64_t columns, float* sums) {
  launch(device, "add_parts", add_parts_kernel, grid_of(divide_up(columns, 32)), 32 * kAddingRows,
         0, partial, parts, columns, sums);
}

}  // namespace elapse::cuda

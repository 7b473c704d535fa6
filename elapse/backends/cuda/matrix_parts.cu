// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/matrix_parts.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kRowsOfPart = 64;

__global__ void fill_rows_kernel(const float* row, Rows<float> y, int64_t rows, int64_t width) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < rows * width; i += step) {
    y(i / width, i % width) = row == nullptr ? 0.0f : row[i % width];
  }
}

template <class T>
__global__ void widen_kernel(const T* narrow, float* wide, int64_t n) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += step) {
    wide[i] = static_cast<float>(narrow[i]);
  }
}

template <class T>
void widen(Device& device, const Tensor& narrow, const Tensor& wide) {
  launch(device, "widening a weight", widen_kernel<T>, grid_for(narrow.numel(), kThreads), kThreads,
         0, static_cast<const T*>(narrow.raw()), wide.data<float>(), narrow.numel());
}

__global__ void column_parts_kernel(Rows<const float> matrix, int64_t rows, int64_t columns,
                                    float* partial) {
  const int64_t column = blockIdx.y * int64_t{blockDim.x} + threadIdx.x;
  if (column >= columns) return;
  const int64_t begin = blockIdx.x * kRowsOfPart;
  const int64_t end = begin + kRowsOfPart < rows ? begin + kRowsOfPart : rows;
  float sum = 0;
  for (int64_t r = begin; r < end; ++r) sum += matrix(r, column);
  partial[blockIdx.x * columns + column] = sum;
}

// A block 32 columns; its rows of threads take the parts in turn and are added in their order.
__global__ void add_parts_kernel(const float* partial, int64_t parts, int64_t columns,
                                 float* sums) {
  __shared__ double of_row[8][32];
  const int64_t column = blockIdx.x * int64_t{32} + threadIdx.x % 32;
  const int row = static_cast<int>(threadIdx.x) / 32;
  double sum = 0;
  for (int64_t part = row; part < parts && column < columns; part += 8) {
    sum += partial[part * columns + column];
  }
  of_row[row][threadIdx.x % 32] = sum;
  __syncthreads();
  if (row > 0 || column >= columns) return;
  for (int other = 1; other < 8; ++other) sum += of_row[other][threadIdx.x];
  sums[column] += static_cast<float>(sum);
}

}  // namespace

void fill_rows(Device& device, const Tensor& row, const Tensor& y) {
  launch(device, "fill_rows", fill_rows_kernel, grid_for(y.numel(), kThreads), kThreads, 0,
         row ? row.data<float>() : nullptr, Rows<float>(y), y.dim(0), y.dim(1));
}

Tensor widened(Device& device, const Tensor& weight) {
  if (weight.dtype() == DType::f32) return weight;
  const Tensor wide = device.empty(DType::f32, weight.shape());
  if (weight.dtype() == DType::bf16) widen<__nv_bfloat16>(device, weight, wide);
  else widen<__half>(device, weight, wide);
  return wide;
}

void add_column_sums(Device& device, const Tensor& matrix, float* sums) {
  const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  if (matrix.numel() == 0) return;
  const int64_t parts = divide_up(rows, kRowsOfPart);
  const Tensor partial = device.empty(DType::f32, {parts, columns});
  launch(device, "column_sums", column_parts_kernel, grid_of(parts, divide_up(columns, kThreads)),
         kThreads, 0, Rows<const float>(matrix), rows, columns, partial.data<float>());
  add_parts(device, partial.data<float>(), parts, columns, sums);
}

void add_parts(Device& device, const float* partial, int64_t parts, int64_t columns, float* sums) {
  launch(device, "add_parts", add_parts_kernel, grid_of(divide_up(columns, 32)), 256, 0, partial,
         parts, columns, sums);
}

}  // namespace elapse::cuda

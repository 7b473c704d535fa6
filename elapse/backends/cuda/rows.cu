// SPDX-License-Identifier: Apache-2.0
// Rows of a table. Bound: memory, 8 bytes an element; of the likeliest, latency. Adding in the
// order of i without atomics: the indices are sorted, equal ones in their order, and the blocks of
// a row's first, one for some of its columns each, add them all. A row that most indices name is
// added by those alone.
#include <cuda_fp16.h>

#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 16;  // rows that a thread reads before it adds them

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

// Indices with their places, to be sorted and as they are once sorted.
struct Places {
  uint32_t *rows, *at, *sorted_rows, *sorted_at;
};

__global__ void number_kernel(const int64_t* index, int64_t count, Places places) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  places.rows[i] = static_cast<uint32_t>(index[i]);
  places.at[i] = static_cast<uint32_t>(i);
}

void sort(Device& device, const Places& places, int64_t count, int64_t rows) {
  int bits = 1;
  while (bits < 32 && (int64_t{1} << bits) < rows) ++bits;
  const auto run = [&](void* memory, size_t& bytes) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, places.rows, places.sorted_rows, places.at,
                                          places.sorted_at, count, 0, bits,
                                          context_of(device).stream),
          "sorting indices");
  };
  size_t bytes = 0;
  run(nullptr, bytes);
  const Tensor memory = device.empty(DType::u8, {static_cast<int64_t>(bytes)});
  run(memory.raw(), bytes);
}

// Where the places of the row end that the place `first` names: most have few.
__device__ int64_t end_of_row(const uint32_t* rows, int64_t first, int64_t count) {
  const uint32_t row = rows[first];
  int64_t low = first + 1, step = 1;  // all before `low` are the row's
  while (low + step <= count && rows[low + step - 1] == row) {
    low += step;
    step *= 2;
  }
  int64_t high = min(low + step - 1, count);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (rows[middle] == row) low = middle + 1;
    else high = middle;
  }
  return low;
}

__global__ void scatter_kernel(Rows<const float> dout, Places places, int64_t count,
                               Rows<float> dtable, int64_t width) {
  const int64_t first = blockIdx.x, row = places.sorted_rows[first];
  if (first > 0 && places.sorted_rows[first - 1] == row) return;
  const int64_t end = end_of_row(places.sorted_rows, first, count);
  const int64_t j = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (j >= width) return;
  float sum = dtable(row, j);
  for (int64_t i = first; i < end; i += kAhead) {
    float ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k < end) ahead[k] = dout(places.sorted_at[i + k], j);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k < end) sum += ahead[k];
    }
  }
  dtable(row, j) = sum;
}

// A candidate of several, of which the greater number and then the lower column wins.
struct Candidate {
  float value;
  int column;

  __device__ void meet(const Candidate& other) {
    if (other.value > value || (other.value == value && other.column < column)) *this = other;
  }
};

constexpr int kLikeliestThreads = 1024;
constexpr int kNoColumn = std::numeric_limits<int>::max();

// A block a row.
__global__ void __launch_bounds__(kLikeliestThreads)
    likeliest_kernel(Rows<const float> logits, int classes, int64_t* index) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float* row = logits.row(blockIdx.x);
  Candidate best = {-kInfinity, kNoColumn};
  bool cannot = false;
#pragma unroll 16
  for (int j = static_cast<int>(threadIdx.x); j < classes; j += kLikeliestThreads) {
    const float v = row[j];
    if (!(v < kInfinity)) cannot = true;
    if (v > best.value) best = {v, j};
  }
  cannot = __syncthreads_or(cannot);
  const auto meet_warp = [&] {
    for (int step = 16; step > 0; step /= 2) {
      best.meet({__shfl_xor_sync(~0u, best.value, step), __shfl_xor_sync(~0u, best.column, step)});
    }
  };
  __shared__ Candidate of_warp[32];
  meet_warp();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = of_warp[threadIdx.x];
  meet_warp();
  if (threadIdx.x == 0) {
    index[blockIdx.x] = cannot || best.column == kNoColumn ? -1 : best.column;
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
  const int64_t count = a.index.numel();
  if (a.dout.numel() == 0) return;
  const Tensor memory = device.empty(DType::i32, {4, count});
  auto* words = static_cast<uint32_t*>(memory.raw());
  const Places places = {words, words + count, words + 2 * count, words + 3 * count};
  launch(device, name_of(a.kOp), number_kernel, grid_of(divide_up(count, kThreads)), kThreads, 0,
         a.index.data<int64_t>(), count, places);
  sort(device, places, count, a.dtable.dim(0));
  launch(device, name_of(a.kOp), scatter_kernel, grid_of(count, divide_up(a.dout.dim(1), kThreads)),
         kThreads, 0, Rows<const float>(a.dout), places, count, Rows<float>(a.dtable),
         a.dout.dim(1));
}

void likeliest(Device& device, const Likeliest& a) {
  launch(device, name_of(a.kOp), likeliest_kernel, grid_of(a.logits.dim(0)), kLikeliestThreads, 0,
         Rows<const float>(a.logits), static_cast<int>(a.logits.dim(1)), a.index.data<int64_t>());
}

}  // namespace elapse::cuda

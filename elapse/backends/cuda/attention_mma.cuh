// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cuda_pipeline.h>

#include <climits>
#include <cmath>

#include "elapse/backends/cuda/attention.cuh"
#include "elapse/backends/cuda/mma.cuh"

// What attention's kernels on the matrix units share. Products are mma.sync's of 16 x 8 numbers
// over 16, factors of bf16, sums of float. A warp holds rows of its own of the first factor, 16 at
// a time; the second comes through shared memory, a tile of rows that the block's warps share, the
// next one copied (cp.async) while one is multiplied. Where a product's result is the next one's
// factor it stays in its registers: an accumulator lies in a warp as a factor does.
namespace elapse::cuda::mma {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr float kLn2 = 0.693147180559945309417f;

// Of heads of up to kDim channels, 64 or 128, a multiple of eight, where channels beyond are zeros;
// and of kRows rows of a tile in shared memory.
template <int kDim_, int kRows_>
struct Sizes {
  static constexpr int kDim = kDim_, kRows = kRows_;
  // 16 bytes more: the eight rows that are read together lie in different banks.
  using Tile = bf16[kRows][kDim + 8];
  using Factor = uint32_t[kDim / 16][4];  // 16 rows
  using Sums = float[kDim / 8][4];        // of 16 rows
  using Scores = float[kRows / 8][4];     // 16 rows, a tile's
};

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / 32; }
// Of an accumulator's numbers: i = 0, 1 stand in this row of the 16, 2, 3 eight below; in columns
// own_column() + i % 2 of the eight.
__device__ inline int own_row() { return lane() / 4; }
__device__ inline int own_column() { return lane() % 4 * 2; }

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// scores[m] += the factor's rows . the tile's rows, for kCount factors.
template <class S, int kCount>
__device__ void multiply_rows(typename S::Scores (&scores)[kCount],
                              const typename S::Factor (&factor)[kCount],
                              const typename S::Tile& tile) {
  const int row = lane() % 8 + lane() / 16 * 8, column = lane() / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < S::kDim / 16; ++d) {
#pragma unroll
    for (int j = 0; j < S::kRows / 16; ++j) {
      uint32_t b[4];
      load_matrices<false>(&tile[16 * j + row][16 * d + column], b);
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        multiply_bf16(scores[m][2 * j], factor[m][d], b[0], b[1]);
        multiply_bf16(scores[m][2 * j + 1], factor[m][d], b[2], b[3]);
      }
    }
  }
}

// sums[m] += weights[m], rounded, times the tile: of each row the tile's rows so weighted.
template <class S, int kCount>
__device__ void add_weighted(typename S::Sums (&sums)[kCount],
                             const typename S::Scores (&weights)[kCount],
                             const typename S::Tile& tile) {
#pragma unroll
  for (int j = 0; j < S::kRows / 16; ++j) {
    uint32_t factor[kCount][4];
#pragma unroll
    for (int m = 0; m < kCount; ++m) {
      const auto &left = weights[m][2 * j], &right = weights[m][2 * j + 1];
      factor[m][0] = pack(left[0], left[1]);
      factor[m][1] = pack(left[2], left[3]);
      factor[m][2] = pack(right[0], right[1]);
      factor[m][3] = pack(right[2], right[3]);
    }
#pragma unroll
    for (int d = 0; d < S::kDim / 16; ++d) {
      uint32_t b[4];
      load_matrices<true>(&tile[16 * j + lane() % 16][16 * d + lane() / 16 * 8], b);
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        multiply_bf16(sums[m][2 * d], factor[m], b[0], b[1]);
        multiply_bf16(sums[m][2 * d + 1], factor[m], b[2], b[3]);
      }
    }
  }
}

// Rows of one head, of T.
template <class T>
struct HeadRows {
  const T* data;
  int64_t stride;
  int count, head_dim;

  __device__ const T* row(int r) const { return data + r * stride; }
};

__device__ inline uint32_t pair_at(const bf16* at) {
  return *reinterpret_cast<const uint32_t*>(at);
}
__device__ inline uint32_t pair_at(const float* at) {
  const float2 v = *reinterpret_cast<const float2*>(at);
  return pack(v.x, v.y);
}

// Rows [first, first + 16) as a factor, zeros where there are none.
template <class S, class T>
__device__ void read_factor(typename S::Factor& factor, const HeadRows<T>& rows, int first) {
#pragma unroll
  for (int d = 0; d < S::kDim / 16; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + own_row() + i % 2 * 8, column = 16 * d + own_column() + i / 2 * 8;
      const bool is_there = row < rows.count && column < rows.head_dim;
      factor[d][i] = is_there ? pair_at(rows.row(row) + column) : 0;
    }
  }
}

// Calls visit(into, from, is_there) for every eight columns of a tile.
template <class S, class T, class Visit>
__device__ void for_each_eight(typename S::Tile& tile, const HeadRows<T>& rows, Visit&& visit) {
  constexpr int kEights = S::kDim / 8, kStep = kThreads / kEights;
  static_assert(S::kRows % kStep == 0);
  const int first = static_cast<int>(threadIdx.x) / kEights;
  const int column = static_cast<int>(threadIdx.x) % kEights * 8;
  const T* from = rows.row(first) + column;
#pragma unroll
  for (int i = 0; i < S::kRows / kStep; ++i) {
    const int row = first + i * kStep;
    visit(&tile[row][column], from, row < rows.count && column < rows.head_dim);
    from += kStep * rows.stride;
  }
}

// Starts to copy rows into a tile, zeros where there are none, which are not read.
template <class S>
__device__ void copy_rows(typename S::Tile& tile, const HeadRows<bf16>& rows) {
  for_each_eight<S>(tile, rows, [](bf16* into, const bf16* from, bool is_there) {
    __pipeline_memcpy_async(into, from, 16, is_there ? 0 : 16);
  });
}
template <class S>
__device__ void copy_rows(typename S::Tile& tile, const HeadRows<float>& rows) {
  for_each_eight<S>(tile, rows, [](bf16* into, const float* from, bool is_there) {
    uint4 eight = {};
    if (is_there) {
      eight = {pair_at(from), pair_at(from + 2), pair_at(from + 4), pair_at(from + 6)};
    }
    *reinterpret_cast<uint4*>(into) = eight;
  });
}

// Calls use(HeadRows of keys, of values) of a run's positions, in the type they have.
template <class Use>
__device__ void with_rows(const KeyRun& run, int64_t begin, int count, int64_t column, int head_dim,
                          Use&& use) {
  const auto rows = [&]<class T>(const T* k, const T* v) {
    use(HeadRows<T>{k + begin * run.k_stride + column, run.k_stride, count, head_dim},
        HeadRows<T>{v + begin * run.v_stride + column, run.v_stride, count, head_dim});
  };
  if (run.own) rows(static_cast<const bf16*>(run.k), static_cast<const bf16*>(run.v));
  else rows(static_cast<const float*>(run.k), static_cast<const float*>(run.v));
}

// Waits for the copies that were started, all threads' of the block, and for the block.
__device__ inline void wait_for_copies() {
  __pipeline_wait_prior(0);
  __syncthreads();
}

// Tiles of keys that some of `queries` queries from position `at` on see, run after run.
template <int kKeys>
struct KeyTile {
  int64_t run, begin = -kKeys;
  int64_t first = 0, count = 0;  // the run's

  // To the next; false: there is none.
  __device__ bool advance(const AttentionView& in, const SequencePlace& seq, int64_t at,
                          int queries) {
    begin += kKeys;
    for (; run < seq.last_run; ++run, begin = 0) {
      first = in.runs[run].first;
      count = in.runs[run].count;
      if (in.pattern.window != 0) {
        const int64_t least = at - in.pattern.window + 1 - first;
        if (begin + kKeys <= least) begin = least / kKeys * kKeys;
      }
      if (begin < count && first + begin < at + queries) return true;
    }
    return false;
  }
};

// Which pairs of a warp's rows and a tile's see each other. A sequence has fewer than 2^31
// positions.
struct Sight {
  int distance;  // from the first key to the first query
  int queries, keys, window, dilation;
  bool none, all;

  __device__ Sight(const AttentionView& in, int64_t query, int queries, int64_t key, int keys)
      : distance(static_cast<int>(query - key)),
        queries(queries),
        keys(keys),
        window(in.pattern.window == 0 || in.pattern.window > INT_MAX
                   ? INT_MAX
                   : static_cast<int>(in.pattern.window)),
        dilation(in.pattern.dilation > INT_MAX ? INT_MAX : static_cast<int>(in.pattern.dilation)) {
    none = distance + queries - 1 < 0 || distance - (keys - 1) >= window;
    all = distance - (keys - 1) >= 0 && distance + queries - 1 < window && dilation == 1;
  }
  __device__ bool at(int query, int key) const {
    const int away = distance + query - key;
    return query < queries && key < keys && away >= 0 && away < window &&
           (dilation == 1 || away % dilation == 0);
  }
};

}  // namespace elapse::cuda::mma

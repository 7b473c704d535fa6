// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/backends/cuda/launch.cuh"
#include "elapse/ops/attention.h"

// What attention's forward and backward share, on any activations; and in float32, where blocks of
// 256 threads take tiles of 64 queries and 64 keys, a thread 4 of each.
namespace elapse::cuda {

constexpr int kTile = 64;
constexpr int kTileThreads = 256;
constexpr int kSlice = 32;           // what products sum over at a time
constexpr int kTileRow = kTile + 4;  // floats of a row in shared memory, aligned for float4

// Keys and values of consecutive positions of a sequence, of all heads; gradients where wanted.
struct KeyRun {
  const void* k;
  const void* v;
  void* dk;
  void* dv;
  int64_t k_stride, v_stride, dk_stride, dv_stride;
  int64_t first, count;  // positions
  bool own;  // of this call's tokens: of q's type, and gradients are assigned; else float's
};

struct TilePlace {
  int64_t sequence;
  int64_t run;    // of keys
  int64_t begin;  // first query of the sequence, or key of the run
};

struct SequencePlace {
  int64_t first_run, last_run;  // of its runs, half-open
  int64_t token, length, past;  // first of its tokens; tokens; positions before them
};

// A call as kernels read it.
struct AttentionView {
  int64_t n_heads, n_kv_heads, head_dim;
  AttentionPattern pattern;
  float scale;
  const KeyRun* runs;
  const SequencePlace* sequences;
  const TilePlace* tiles;

  __device__ int64_t kv_head_of(int64_t head) const { return head / (n_heads / n_kv_heads); }
  __device__ bool sees(int64_t distance) const {
    return distance >= 0 && (pattern.dilation == 1 || distance % pattern.dilation == 0) &&
           (pattern.window == 0 || distance < pattern.window);
  }
  // Whether some of the queries [at, at + n) sees some of the keys [key, key + m).
  __device__ bool meets(int64_t at, int64_t n, int64_t key, int64_t m) const {
    return key < at + n && (pattern.window == 0 || at - (key + m - 1) < pattern.window);
  }
};

// What the view points at, kept until its kernels are launched.
struct AttentionPlaces {
  AttentionView view;
  // The view's tiles: of queries, of single queries forward, of keys backward.
  int64_t query_tiles = 0, singles = 0, key_tiles = 0;
  std::vector<Tensor> kept;
};
// In tiles of so many queries or keys.
AttentionPlaces attention_places(Device& device, const AttentionInputs& in,
                                 const AttentionBackward* backward, int64_t queries = kTile,
                                 int64_t keys = kTile);

// Up to 64 rows of one head.
struct Strip {
  const float* data;
  int64_t stride;
  int count;
};

__device__ inline int tile_row() { return static_cast<int>(threadIdx.x) / 16 * 4; }
__device__ inline int tile_column() { return static_cast<int>(threadIdx.x) % 16 * 4; }

__device__ inline void load4(const float* at, float (&v)[4]) {
  const float4 f = *reinterpret_cast<const float4*>(at);
  v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}

// What blocks keep in shared memory: two strips' columns, or some rows of one; and weights.
struct TileMemory {
  union {
    struct {
      float a[kSlice][kTileRow], b[kSlice][kTileRow];
    };
    float rows[kSlice][2 * kTile];
  };
  float weights[kTile][kTileRow];
};

// Columns [d, d + kSlice) of a strip, zeros outside.
__device__ inline void load_columns(float (&into)[kSlice][kTileRow], const Strip& strip, int64_t d,
                                    int64_t head_dim) {
  for (int i = static_cast<int>(threadIdx.x); i < kSlice * kTile; i += kTileThreads) {
    const int row = i / kSlice, column = i % kSlice;
    const bool is_there = row < strip.count && d + column < head_dim;
    into[column][row] = is_there ? strip.data[row * strip.stride + d + column] : 0.0f;
  }
}

// out[i][j] = a's row . b's row, of this thread's four rows and four columns.
__device__ inline void multiply_strips(TileMemory& memory, const Strip& a, const Strip& b,
                                       int64_t head_dim, float (&out)[4][4]) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) out[i][j] = 0;
  }
  for (int64_t d = 0; d < head_dim; d += kSlice) {
    __syncthreads();
    load_columns(memory.a, a, d, head_dim);
    load_columns(memory.b, b, d, head_dim);
    __syncthreads();
#pragma unroll 8
    for (int e = 0; e < kSlice; ++e) {
      float x[4], y[4];
      load4(&memory.a[e][tile_row()], x);
      load4(&memory.b[e][tile_column()], y);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][j] = fmaf(x[i], y[j], out[i][j]);
      }
    }
  }
}

// memory.weights[column][row] = this thread's.
__device__ inline void store_weights(TileMemory& memory, const float (&weight)[4][4]) {
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 4; ++i) memory.weights[tile_column() + j][tile_row() + i] = weight[i][j];
  }
}

// out[i][64 g + j] += sum over rows r of weights[r][i] strip[r][column + 64 g + j]
template <int kGroups>
__device__ void add_weighted(TileMemory& memory, const Strip& strip, int64_t column,
                             int64_t head_dim, float (&out)[4][4 * kGroups]) {
  for (int begin = 0; begin < strip.count; begin += kSlice) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kSlice * kTile * kGroups; i += kTileThreads) {
      const int row = i / (kTile * kGroups), c = i % (kTile * kGroups);
      const bool is_there = begin + row < strip.count && column + c < head_dim;
      memory.rows[row][c] = is_there ? strip.data[(begin + row) * strip.stride + column + c] : 0.0f;
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < kSlice; ++r) {
      float weight[4];
      load4(&memory.weights[begin + r][tile_row()], weight);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        float y[4];
        load4(&memory.rows[r][kTile * g + tile_column()], y);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            out[i][4 * g + j] = fmaf(weight[i], y[j], out[i][4 * g + j]);
          }
        }
      }
    }
  }
  __syncthreads();
}

// Calls visit(column of the head, place in a thread's row of out) for those there are.
template <int kGroups, class Visit>
__device__ void for_each_column(int64_t column, int64_t head_dim, Visit&& visit) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t c = column + kTile * g + tile_column() + j;
      if (c < head_dim) visit(c, 4 * g + j);
    }
  }
}

// The sums of products of two rows of each head, dz . z: a warp a row.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    attention_mean_kernel(Rows<const T> dz, Rows<const T> z, int64_t n_heads, int64_t head_dim,
                          int64_t rows, float* mean) {
  const int64_t row = (blockIdx.x * int64_t{kTileThreads} + threadIdx.x) / 32;
  if (row >= rows) return;
  const int64_t t = row / n_heads, column = row % n_heads * head_dim;
  double sum = 0;
  for (int64_t e = threadIdx.x % 32; e < head_dim; e += 32) {
    sum += double(static_cast<float>(dz(t, column + e))) * static_cast<float>(z(t, column + e));
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) mean[row] = static_cast<float>(sum);
}

// The same of a call: (tokens, n_heads).
template <class T>
Tensor attention_means(Device& device, const AttentionBackward& a) {
  const int64_t rows = a.in.seqs.tokens * a.in.n_heads;
  const Tensor mean = device.empty(DType::f32, {rows});
  launch(device, name_of(a.kOp), attention_mean_kernel<T>,
         grid_of(divide_up(rows * 32, kTileThreads)), kTileThreads, 0, Rows<const T>(a.dz),
         Rows<const T>(a.z), a.in.n_heads, a.in.head_dim(), rows, mean.data<float>());
  return mean;
}

// Calls run(std::integral_constant of groups of 64 columns, blocks that share a head's columns).
template <class Run>
void with_groups(int64_t head_dim, Run&& run) {
  if (head_dim <= kTile) run(std::integral_constant<int, 1>(), int64_t{1});
  else run(std::integral_constant<int, 2>(), divide_up(head_dim, 2 * kTile));
}

__device__ inline Strip keys_of(const KeyRun& run, int64_t begin, int count, int64_t column) {
  return {static_cast<const float*>(run.k) + begin * run.k_stride + column, run.k_stride, count};
}
__device__ inline Strip values_of(const KeyRun& run, int64_t begin, int count, int64_t column) {
  return {static_cast<const float*>(run.v) + begin * run.v_stride + column, run.v_stride, count};
}
__device__ inline int tile_count(int64_t begin, int64_t end) {
  return static_cast<int>(end - begin < kTile ? end - begin : kTile);
}

}  // namespace elapse::cuda

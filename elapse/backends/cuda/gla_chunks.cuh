// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/chunks.cuh"
#include "elapse/ops/device.h"

// Gated linear attention (ops/gated_linear_attention.h) by chunks of up to 64 tokens, as products
// of tiles (Yang et al., 2023, section 4). With D_ij[n] the product of the decays after j up to i:
//   P_ij = sum_n q_i[n] k_j[n] D_ij[n] for j <= i
//   y_i  = sum_j P_ij v_j + sum_n q_i[n] (the decays from the chunk's start up to i) h[n]
//   H[n] = (all decays) h[n] + sum_j v_j k_j[n] (the decays after j to the chunk's end)
// Decays are taken apart at the blocks of 16 tokens: logarithms of one sign are added, and every
// factor is at most 1. Pairs within a block are walked.
namespace elapse::cuda {

template <class T>
struct GlaChunks {
  ChunkSizes sizes;  // d_state: d_k; head_dim: d_v
  Rows<const T> q, k, v, log_decay;
};

template <class T>
struct GlaChunksForward {
  GlaChunks<T> in;
  const float* start;  // the pool, (slots, d_inner, d_k), or null
  float* end;          // likewise
  float* states;       // (rows, d_inner, d_k), assigned: before each chunk
  Rows<T> out;
};

template <class T>
struct GlaChunksBackward {
  GlaChunks<T> in;
  Rows<const T> dout;
  const float* states;  // as forward left them
  const float* dend;    // (n_seqs, d_inner, d_k), or null
  float* dstart;        // likewise, or null
  Rows<T> dq, dk, dv, dlog_decay;
};

// Whether this device has the shared memory for it.
template <class T>
bool can_run_gla_chunks();

template <class T>
void gla_chunks_forward(Device& device, const GlaChunksForward<T>& args);
template <class T>
void gla_chunks_backward(Device& device, const GlaChunksBackward<T>& args);

namespace gla_chunks {

constexpr int kBlock = 16;
constexpr int kBlocks = kTile / kBlock;

// Some of a head's states, up to 64.
struct Slice {
  int64_t first, column;  // the first; where it is in rows of q, k and decays
  int count;

  __device__ Slice(const ChunkSizes& in, int64_t head, int64_t n)
      : first(n), column(head * in.d_state + n) {
    count = static_cast<int>(min(in.d_state - n, int64_t{kTile}));
  }
};

// What a thread has of the slice's keys: one state, and the tokens of a block.
struct KeyColumn {
  int state, block;

  __device__ KeyColumn()
      : state(static_cast<int>(threadIdx.x) % kTile),
        block(static_cast<int>(threadIdx.x) / kTile) {}
  __device__ int token(int i) const { return block * kBlock + i; }

  // Zeros beyond the chunk and the slice.
  template <class T>
  __device__ void load(const Rows<const T>& rows, const Chunk& chunk, const Slice& slice,
                       float (&v)[kBlock]) const {
    const T* from = rows.row(chunk.token + block * kBlock) + slice.column + state;
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      const bool is_there = token(i) < chunk.len && state < slice.count;
      v[i] = is_there ? static_cast<float>(from[i * rows.stride]) : 0.0f;
    }
  }
};

// Sums of the logarithms of decays over each block, and over the blocks before and after it.
struct BlockDecays {
  float of[kBlocks][kTile];

  __device__ float before(int block, int state) const {
    float sum = 0;
    for (int b = 0; b < block; ++b) sum += of[b][state];
    return sum;
  }
  __device__ float after(int block, int state) const {
    float sum = 0;
    for (int b = block + 1; b < kBlocks; ++b) sum += of[b][state];
    return sum;
  }
};

// The sums, and each token's: up to it from its block's start, and after it to its block's end. By
// all threads; ends with a barrier.
__device__ inline void sum_decays(const KeyColumn& own, const float (&log_decay)[kBlock],
                                  BlockDecays& blocks, float (&since)[kBlock],
                                  float (&until)[kBlock]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kBlock; ++i) since[i] = sum += log_decay[i];
  blocks.of[own.block][own.state] = sum;
  sum = 0;
#pragma unroll
  for (int i = kBlock - 1; i >= 0; --i) {
    until[i] = sum;
    sum += log_decay[i];
  }
  __syncthreads();
}

// The slice's queries with the decays from the chunk's start, or keys with those to its end. By all
// threads, after a barrier; ends with one.
template <bool kQueries, class T>
__device__ void load_decayed(ComputedTile<T> tile, BlockDecays& blocks, const GlaChunks<T>& in,
                             const Chunk& chunk, const Slice& slice) {
  const KeyColumn own;
  float v[kBlock], log_decay[kBlock], since[kBlock], until[kBlock];
  own.load(in.log_decay, chunk, slice, log_decay);
  own.load(kQueries ? in.q : in.k, chunk, slice, v);
  sum_decays(own, log_decay, blocks, since, until);
  const float beyond =
      kQueries ? blocks.before(own.block, own.state) : blocks.after(own.block, own.state);
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    const float decay = expf(beyond + (kQueries ? since[i] : until[i]));
    tile.put(own.token(i), own.state, v[i] * decay);
  }
  __syncthreads();
}

// P of each chunk and head, (rows n_heads, kTile, kTile), zeros above the diagonal.
template <class T>
Tensor scores(Device& device, const GlaChunks<T>& in);

// The states before each chunk, or, back, their gradients after it: into `states`.
template <class T>
void add_up_chunks(Device& device, const GlaChunks<T>& in, const Rows<const T>& values,
                   float* states, const float* start, float* end, bool back);

}  // namespace gla_chunks
}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/matrix_tiles.cuh"

// What recurrences by chunks of up to 64 tokens share (ssd_chunks.cuh, gla_chunks.cuh). A chunk has
// the row of its checkpoint (ops/ssd.h); blocks beyond 64 channels of a head are tiles apart.
namespace elapse::cuda {

// Where they are, and their sizes. A head has head_dim channels of d_state states.
struct ChunkSizes {
  const int64_t* cu;
  const int64_t* start_slots;
  const int64_t* end_slots;
  int64_t n_seqs, tokens, n_heads, head_dim, d_state, chunk;

  __host__ __device__ int64_t rows() const { return tokens / chunk + n_seqs; }
  __host__ __device__ int64_t d_inner() const { return n_heads * head_dim; }
  __host__ __device__ int64_t tiles() const { return (head_dim + kTile - 1) / kTile; }
  __host__ __device__ int64_t blocks() const { return n_heads * tiles(); }  // of a row
  __host__ __device__ int64_t slices() const { return (d_state + kTile - 1) / kTile; }
};

struct Chunk {
  int64_t row, token;  // its place among rows, its first token
  int len;             // 0: no chunk has this row

  __device__ Chunk(const ChunkSizes& in, int64_t of_row) : row(of_row) {
    const int64_t s = sequence_of_row(in.cu, in.n_seqs, in.chunk, row);
    token = in.cu[s] + (row - in.cu[s] / in.chunk - s) * in.chunk;
    const int64_t left = in.cu[s + 1] - token;
    len = static_cast<int>(left < in.chunk ? (left < 0 ? 0 : left) : in.chunk);
  }
};

// A tile of a head's channels.
struct Channels {
  int64_t block, head, tile, first;  // block: among those of a row; first: its first channel
  int count;

  __device__ Channels(const ChunkSizes& in, int64_t of_block)
      : block(of_block), head(block / in.tiles()), tile(block % in.tiles()) {
    first = head * in.head_dim + tile * kTile;
    count = static_cast<int>(min(in.head_dim - tile * kTile, int64_t{kTile}));
  }
};

// States pass from chunk to chunk: rows of `states` (rows, d_inner, d_state), what each chunk adds
// to them, become the states before each chunk, from `start` to `end`: pools, or null. Or, back,
// rows become the gradients of those after each chunk, from dend to dstart (n_seqs, ...).
// decays: (rows, n_heads), or (rows, n_heads, d_state) where `by_state`.
struct ChunkPass {
  float* states;
  const float* decays;
  bool by_state;
  const float* start;
  float* end;
};
void pass_states(Device& device, const ChunkSizes& in, const ChunkPass& args, bool back);

}  // namespace elapse::cuda

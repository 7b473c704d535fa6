// SPDX-License-Identifier: Apache-2.0
// The scores P of chunks, and how states pass from chunk to chunk, forward and, as gradients,
// backward. Bound: products and exponentials, 64 d_k (64 + 2 d_v) of the first and some
// 64 d_k (4 + 2 d_v / 64) of the second a chunk and head; bytes of the states, 12 of each.
#include "elapse/backends/cuda/gla_chunks.cuh"

namespace elapse::cuda {
namespace gla_chunks {
namespace {

struct ScoresMemory {
  float q[kTileElements], k[kTileElements];  // with the decays from, and to, their block's edge
  float raw_q[kTileElements], raw_k[kTileElements], decay[kTileElements];
  BlockDecays blocks;
  float between[kBlocks][kBlocks][kTile];  // decays of the blocks between I and J < I; else 0
};

// k_j of a column j with the decays between its block and that of the warp's rows.
struct KeysOfBlock {
  InRows<FloatTile> keys;
  const float (*between)[kTile];  // of the block of rows
};
__device__ inline float at(const KeysOfBlock& f, int first, int i, int deep, int step) {
  return tile::at(f.keys, first, i, deep, step) *
         f.between[(TileSums::first_column() + 8 * i) / kBlock][step + deep];
}

// The sum over a warp's lanes of each of 16 numbers: this lane's is that of lane / 2.
__device__ float lane_sums(float (&v)[kBlock]) {
  int mask = 16;
#pragma unroll
  for (int half = kBlock / 2; half > 0; half /= 2) {
    const bool upper = (threadIdx.x & static_cast<unsigned>(mask)) != 0;
#pragma unroll
    for (int n = 0; n < half; ++n) {
      const float sent = upper ? v[n] : v[n + half], own = upper ? v[n + half] : v[n];
      v[n] = own + __shfl_xor_sync(~0u, sent, mask);
    }
    mask /= 2;
  }
  return v[0] + __shfl_xor_sync(~0u, v[0], 1);
}

template <class T>
struct Scores {
  static constexpr int kRows = 8;  // that a warp has of the pairs within a block

  const GlaChunks<T>& in;
  const Chunk chunk;
  ScoresMemory& s;
  TileSums sums = {};
  float within[kRows] = {};  // of this lane's column, lane / 2 of the block

  __device__ int row(int i) const { return TileSums::warp() * kRows + i; }

  __device__ void slice(const Slice& slice) {
    load(slice);
    const int block = TileSums::first_row() / kBlock;
    if (TileSums::first_column() / kBlock < block) {
      tile::add_float_product(sums, 0, slice.count, InRows{FloatTile(s.q)},
                              KeysOfBlock{InRows{FloatTile(s.k)}, s.between[block]});
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) within[i] += pairs_within(row(i));
    __syncthreads();
  }

  __device__ void load(const Slice& slice) {
    const KeyColumn own;
    float q[kBlock], k[kBlock], log_decay[kBlock], since[kBlock], until[kBlock];
    own.load(in.log_decay, chunk, slice, log_decay);
    own.load(in.q, chunk, slice, q);
    own.load(in.k, chunk, slice, k);
    sum_decays(own, log_decay, s.blocks, since, until);
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      const int at = FloatTile::place(own.token(i), own.state);
      s.raw_q[at] = q[i];
      s.raw_k[at] = k[i];
      s.decay[at] = expf(log_decay[i]);
      s.q[at] = q[i] * expf(since[i]);
      s.k[at] = k[i] * expf(until[i]);
    }
    float between = 0;
    for (int other = own.block - 1; other >= 0; --other) {
      s.between[own.block][other][own.state] = expf(between);
      between += s.blocks.of[other][own.state];
    }
    for (int other = own.block; other < kBlocks; ++other) {
      s.between[own.block][other][own.state] = 0;
    }
    __syncthreads();
  }

  // This lane's P_ij of row i and its column of the same block.
  __device__ float pairs_within(int i) const {
    const int first = i / kBlock * kBlock, lane = TileSums::lane();
    const FloatTile q(s.raw_q), k(s.raw_k), decay(s.decay);
    float asked[2] = {q(i, lane), q(i, lane + 32)}, products[kBlock];
#pragma unroll
    for (int j = kBlock - 1; j >= 0; --j) {
      products[j] = 0;
      if (first + j > i) continue;
      products[j] = fmaf(asked[0], k(first + j, lane), asked[1] * k(first + j, lane + 32));
      asked[0] *= decay(first + j, lane);
      asked[1] *= decay(first + j, lane + 32);
    }
    return lane_sums(products);
  }

  __device__ void store(float* to) {
    sums.each([&](int i, int j, float2 scores) {
      if (i / kBlock != j / kBlock) store_pair(to + i * kTile + j, scores);
    });
    const int lane = TileSums::lane();
    if (lane % 2 != 0) return;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      to[row(i) * kTile + row(i) / kBlock * kBlock + lane / 2] = within[i];
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    scores_kernel(const __grid_constant__ GlaChunks<T> in, float* scores) {
  extern __shared__ float4 memory[];
  const Chunk chunk(in.sizes, blockIdx.x / in.sizes.n_heads);
  if (chunk.len == 0) return;
  const int64_t head = blockIdx.x % in.sizes.n_heads;
  Scores<T> of_block = {in, chunk, *reinterpret_cast<ScoresMemory*>(memory)};
  for (int64_t n = 0; n < in.sizes.d_state; n += kTile) of_block.slice(Slice(in.sizes, head, n));
  of_block.store(scores + blockIdx.x * int64_t{kTileElements});
}

// What a chunk adds to the states after it, or, kBack, to the gradient of those before it.
template <class T, bool kBack>
__global__ void __launch_bounds__(kTileThreads, 2)
    contributions_kernel(const __grid_constant__ GlaChunks<T> in, const Rows<const T> of_values,
                         float* states, float* decays) {
  __shared__ alignas(128) char memory[InputTile<T>::kBytes + ComputedTile<T>::kBytes];
  __shared__ BlockDecays blocks;
  const InputTile<T> values(memory);
  const ComputedTile<T> keys(memory + InputTile<T>::kBytes);
  const ChunkSizes& sizes = in.sizes;
  const Chunk chunk(sizes, blockIdx.x / sizes.blocks());
  if (chunk.len == 0) return;
  const Channels channels(sizes, blockIdx.x % sizes.blocks());
  load_tile(values, of_values.row(chunk.token) + channels.first, of_values.stride, chunk.len,
            channels.count);
  for (int64_t n = 0; n < sizes.d_state; n += kTile) {
    const Slice slice(sizes, channels.head, n);
    load_decayed<kBack>(keys, blocks, in, chunk, slice);
    TileSums sums;
    add_product(sums, 0, chunk.len, InColumns{values}, InColumns{keys});
    store_sums(sums, states + (chunk.row * sizes.d_inner() + channels.first) * sizes.d_state + n,
               sizes.d_state, channels.count, slice.count);
    const int state = static_cast<int>(threadIdx.x);
    if (channels.tile == 0 && state < slice.count) {
      decays[chunk.row * sizes.n_heads * sizes.d_state + slice.column + state] =
          expf(blocks.before(kBlocks, state));
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
Tensor scores(Device& device, const GlaChunks<T>& in) {
  const int64_t blocks = in.sizes.rows() * in.sizes.n_heads;
  const Tensor scores = device.empty(DType::f32, Shape{blocks, kTileElements});
  grant(scores_kernel<T>, int{sizeof(ScoresMemory)}, "gla scores");
  launch(device, "gla scores", scores_kernel<T>, grid_of(blocks), kTileThreads,
         int{sizeof(ScoresMemory)}, in, scores.data<float>());
  return scores;
}
template Tensor scores(Device&, const GlaChunks<float>&);
template Tensor scores(Device&, const GlaChunks<bf16>&);

template <class T>
void add_up_chunks(Device& device, const GlaChunks<T>& in, const Rows<const T>& values,
                   float* states, const float* start, float* end, bool back) {
  const ChunkSizes& sizes = in.sizes;
  const Tensor decays =
      device.empty(DType::f32, Shape{sizes.rows(), sizes.n_heads * sizes.d_state});
  launch(device, "gla contributions",
         back ? contributions_kernel<T, true> : contributions_kernel<T, false>,
         grid_of(sizes.rows() * sizes.blocks()), kTileThreads, 0, in, values, states,
         decays.data<float>());
  pass_states(device, sizes, {states, decays.data<float>(), true, start, end}, back);
}
template void add_up_chunks(Device&, const GlaChunks<float>&, const Rows<const float>&, float*,
                            const float*, float*, bool);
template void add_up_chunks(Device&, const GlaChunks<bf16>&, const Rows<const bf16>&, float*,
                            const float*, float*, bool);

}  // namespace gla_chunks
}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// A block a chunk and tile of a head's channels. Bound: the products, 64 (64 + d_k) multiplications
// a token and tile beside what gla_chunks_states.cu has; bytes of the states, 4 of each.
#include "elapse/backends/cuda/gla_chunks.cuh"

namespace elapse::cuda {
namespace gla_chunks {
namespace {

template <class T>
constexpr int kBytes = InputTile<T>::kBytes + 3 * ComputedTile<T>::kBytes;

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    forward_kernel(const __grid_constant__ GlaChunksForward<T> a, const float* scores) {
  extern __shared__ float4 shared[];
  __shared__ BlockDecays blocks;
  char* memory = reinterpret_cast<char*>(shared);
  const InputTile<T> v(memory);
  memory += InputTile<T>::kBytes;
  const ComputedTile<T> q(memory), h(memory + ComputedTile<T>::kBytes),
      P(memory + 2 * ComputedTile<T>::kBytes);
  const GlaChunks<T>& in = a.in;
  const ChunkSizes& sizes = in.sizes;
  const Chunk chunk(sizes, blockIdx.x / sizes.blocks());
  if (chunk.len == 0) return;
  const Channels channels(sizes, blockIdx.x % sizes.blocks());
  load_tile(v, in.v.row(chunk.token) + channels.first, in.v.stride, chunk.len, channels.count);
  load_tile(P, scores + (chunk.row * sizes.n_heads + channels.head) * int64_t{kTileElements}, kTile,
            chunk.len, chunk.len);
  const float* states = a.states + (chunk.row * sizes.d_inner() + channels.first) * sizes.d_state;
  TileSums sums;
  for (int64_t n = 0; n < sizes.d_state; n += kTile) {
    const Slice slice(sizes, channels.head, n);
    load_tile(h, states + n, sizes.d_state, channels.count, slice.count);
    load_decayed<true>(q, blocks, in, chunk, slice);
    add_product(sums, 0, slice.count, InRows{q}, InRows{h});
    __syncthreads();
  }
  add_product(sums, 0, TileSums::first_row() + kBlock, InRows{P}, InColumns{v});
  store_sums(sums, a.out.row(chunk.token) + channels.first, a.out.stride, chunk.len,
             channels.count);
}

}  // namespace
}  // namespace gla_chunks

template <class T>
void gla_chunks_forward(Device& device, const GlaChunksForward<T>& a) {
  using namespace gla_chunks;
  add_up_chunks<T>(device, a.in, a.in.v, a.states, a.start, a.end, false);
  const Tensor P = scores(device, a.in);
  grant(forward_kernel<T>, kBytes<T>, "gla_forward");
  launch(device, "gla_forward", forward_kernel<T>, grid_of(a.in.sizes.rows() * a.in.sizes.blocks()),
         kTileThreads, kBytes<T>, a, P.data<float>());
}
template void gla_chunks_forward(Device&, const GlaChunksForward<float>&);
template void gla_chunks_forward(Device&, const GlaChunksForward<bf16>&);

}  // namespace elapse::cuda

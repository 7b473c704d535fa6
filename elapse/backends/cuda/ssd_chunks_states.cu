// SPDX-License-Identifier: Apache-2.0
// What chunks share: the scores C B^T, and how states pass from chunk to chunk, forward and, as
// gradients, backward. Bound: memory, 16 bytes a state of a chunk; the products are
// 64 d_inner d_state multiplications a chunk.
#include "elapse/backends/cuda/ssd_chunks.cuh"

namespace elapse::cuda {
namespace ssd_chunks {
namespace {

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    scores_kernel(const __grid_constant__ SsdChunks<T> in, float* scores) {
  using Tile = InputTile<T>;
  __shared__ alignas(128) char memory[2 * Tile::kBytes];
  const Tile B(memory), C(memory + Tile::kBytes);
  const Chunk chunk(in.sizes, blockIdx.x / in.groups());
  if (chunk.len == 0) return;
  const int64_t column = blockIdx.x % in.groups() * in.sizes.d_state;
  TileSums sums;
  for (int64_t n = 0; n < in.sizes.d_state; n += kTile) {
    const int count = static_cast<int>(min(in.sizes.d_state - n, int64_t{kTile}));
    __syncthreads();
    load_tile(B, in.B.row(chunk.token) + column + n, in.B.stride, chunk.len, count);
    load_tile(C, in.C.row(chunk.token) + column + n, in.C.stride, chunk.len, count);
    __syncthreads();
    add_product(sums, 0, count, InRows{C}, InRows{B});
  }
  store_sums(sums, scores + blockIdx.x * int64_t{kTileElements}, kTile, kTile, kTile);
}

template <class T, bool kBack>
__global__ void __launch_bounds__(kTileThreads, 3)
    contributions_kernel(const __grid_constant__ Contributions<T> a) {
  __shared__ alignas(128) char memory[InputTile<T>::kBytes + ComputedTile<T>::kBytes];
  __shared__ Decays decays;
  const InputTile<T> values(memory);
  const ComputedTile<T> keys(memory + InputTile<T>::kBytes);
  const SsdChunks<T>& in = a.in;
  const Chunk chunk(in.sizes, blockIdx.x / in.sizes.blocks());
  const Channels channels(in.sizes, blockIdx.x % in.sizes.blocks());
  if (chunk.len == 0) return;
  decays.make(in, chunk, channels.head);
  if (threadIdx.x == 0 && channels.tile == 0) {
    a.decays[chunk.row * in.sizes.n_heads + channels.head] = decays.total();
  }
  load_tile(values, a.values.row(chunk.token) + channels.first, a.values.stride, chunk.len,
            channels.count);
  const int64_t group = channels.head / in.heads_of_group;
  for (int64_t n = 0; n < in.sizes.d_state; n += kTile) {
    const int count = static_cast<int>(min(in.sizes.d_state - n, int64_t{kTile}));
    __syncthreads();
    for_tile(a.keys.row(chunk.token) + group * in.sizes.d_state + n, a.keys.stride, chunk.len,
             count, [&](int j, int column, float4 v) {
               const float w = kBack ? decays.since_start[j] : decays.until_end[j] * decays.dt[j];
               keys.put_four(j, column, {w * v.x, w * v.y, w * v.z, w * v.w});
             });
    __syncthreads();
    TileSums sums;
    add_product(sums, 0, chunk.len, InColumns{values}, InColumns{keys});
    store_sums(sums,
               a.states + (chunk.row * in.sizes.d_inner() + channels.first) * in.sizes.d_state + n,
               in.sizes.d_state, channels.count, count);
  }
}

}  // namespace

template <class T>
void add_up_chunks(Device& device, const Contributions<T>& args, const float* start, float* end,
                   bool back) {
  const SsdChunks<T>& in = args.in;
  launch(device, "ssd contributions",
         back ? contributions_kernel<T, true> : contributions_kernel<T, false>,
         grid_of(in.sizes.rows() * in.sizes.blocks()), kTileThreads, 0, args);
  pass_states(device, in.sizes, {args.states, args.decays, false, start, end}, back);
}
template void add_up_chunks(Device&, const Contributions<float>&, const float*, float*, bool);
template void add_up_chunks(Device&, const Contributions<bf16>&, const float*, float*, bool);

}  // namespace ssd_chunks

template <class T>
Tensor ssd_scores(Device& device, const SsdChunks<T>& in) {
  const Tensor scores =
      device.empty(DType::f32, Shape{in.sizes.rows() * in.groups(), int64_t{kTileElements}});
  launch(device, "ssd scores", ssd_chunks::scores_kernel<T>, grid_of(in.sizes.rows() * in.groups()),
         kTileThreads, 0, in, scores.data<float>());
  return scores;
}
template Tensor ssd_scores(Device&, const SsdChunks<float>&);
template Tensor ssd_scores(Device&, const SsdChunks<bf16>&);

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// A block a chunk and tile of a head's channels. Bound: the products, 64 (64 / 2 + d_state)
// multiplications a token and tile beside the states' (ssd_chunks_states.cu), three times over on
// the matrix units in float32 and twice in bf16; bytes of the states, 4 of each.
#include "elapse/backends/cuda/ssd_chunks.cuh"

namespace elapse::cuda {
namespace ssd_chunks {
namespace {

template <class T>
constexpr int kBytes = 2 * (InputTile<T>::kBytes + ComputedTile<T>::kBytes);

template <class T>
__global__ void __launch_bounds__(kTileThreads, 3)
    forward_kernel(const __grid_constant__ SsdChunksForward<T> a, const float* scores) {
  extern __shared__ float4 shared[];
  __shared__ Decays decays;
  char* memory = reinterpret_cast<char*>(shared);
  const InputTile<T> C(memory), x(memory + InputTile<T>::kBytes);
  memory += 2 * InputTile<T>::kBytes;
  const ComputedTile<T> h(memory), decayed(memory + ComputedTile<T>::kBytes);
  const SsdChunks<T>& in = a.in;
  const Chunk chunk(in.sizes, blockIdx.x / in.sizes.blocks());
  const Channels channels(in.sizes, blockIdx.x % in.sizes.blocks());
  if (chunk.len == 0) return;
  const int64_t group = channels.head / in.heads_of_group;
  decays.make(in, chunk, channels.head);
  load_tile(x, in.x.row(chunk.token) + channels.first, in.x.stride, chunk.len, channels.count);
  // (C B^T) o L, by the dt of columns.
  for_tile(scores + (chunk.row * in.groups() + group) * kTileElements, kTile, chunk.len, chunk.len,
           [&](int i, int j, float4 v) {
             float* score = &v.x;
#pragma unroll
             for (int k = 0; k < 4; ++k) {
               score[k] = j + k > i ? 0.0f : score[k] * decays.between(i, j + k) * decays.dt[j + k];
             }
             decayed.put_four(i, j, v);
           });
  TileSums sums;
  const float* states =
      a.states + (chunk.row * in.sizes.d_inner() + channels.first) * in.sizes.d_state;
  for (int64_t n = 0; n < in.sizes.d_state; n += kTile) {
    const int count = static_cast<int>(min(in.sizes.d_state - n, int64_t{kTile}));
    __syncthreads();
    load_tile(C, in.C.row(chunk.token) + group * in.sizes.d_state + n, in.C.stride, chunk.len,
              count);
    load_tile(h, states + n, in.sizes.d_state, channels.count, count);
    __syncthreads();
    add_product(sums, 0, count, InRows{C}, InRows{h});
  }
  sums.each([&](int i, int, float2& sum) {
    sum = {sum.x * decays.since_start[i], sum.y * decays.since_start[i]};
  });
  add_product(sums, 0, TileSums::first_row() + 16, InRows{decayed}, InColumns{x});
  const float* D = in.D + (in.D_by_channel ? channels.first : channels.head);
  sums.each([&](int i, int p, float2& y) {
    const float2 of_x = x.get_pair(i, p);
    if (p < channels.count) y.x = fmaf(D[in.D_by_channel ? p : 0], of_x.x, y.x);
    if (p + 1 < channels.count) y.y = fmaf(D[in.D_by_channel ? p + 1 : 0], of_x.y, y.y);
  });
  store_sums(sums, a.out.row(chunk.token) + channels.first, a.out.stride, chunk.len,
             channels.count);
}

}  // namespace
}  // namespace ssd_chunks

template <class T>
void ssd_chunks_forward(Device& device, const SsdChunksForward<T>& a) {
  using namespace ssd_chunks;
  const SsdChunks<T>& in = a.in;
  const Tensor decays = device.empty(DType::f32, Shape{in.sizes.rows(), in.sizes.n_heads});
  add_up_chunks<T>(device, {in, in.x, in.B, a.states, decays.data<float>()}, a.start, a.end, false);
  const Tensor scores = ssd_scores(device, in);
  grant(forward_kernel<T>, kBytes<T>, "ssd_forward");
  launch(device, "ssd_forward", forward_kernel<T>, grid_of(in.sizes.rows() * in.sizes.blocks()),
         kTileThreads, kBytes<T>, a, scores.data<float>());
}
template void ssd_chunks_forward(Device&, const SsdChunksForward<float>&);
template void ssd_chunks_forward(Device&, const SsdChunksForward<bf16>&);

}  // namespace elapse::cuda

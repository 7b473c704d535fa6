// SPDX-License-Identifier: Apache-2.0
// Gradients pass from chunk to chunk first (gla_chunks_states.cu). With dH the gradient of the
// states after a chunk and dP_ij = dy_i . v_j for j <= i, a block takes
//   1. a chunk and head:                  dP
//   2. a chunk and tile of its channels:  dv_j = sum_i P_ij dy_i + dH (k_j left)
//   3. a chunk and 64 of its states:      dq_i = sum_j dP_ij k_j D_ij + since_i (h^T dy_i)
//                                         dk_j = sum_i dP_ij q_i D_ij + left_j (dH^T v_j)
// since and left are the decays from the chunk's start and to its end. The gradient of a token's
// logarithm of decay is the sum of what crosses it: reads of h from it on, writes before it that
// are left, h's own rest, and of the pairs within the chunk q dq - k dk from it on: pairs behind it
// cancel (section 4.3 of the paper).
//
// Bound: the products, 64 (3 64 + 3 d_k) multiplications a token and tile of channels, in float32
// three times over on the matrix units; bytes of the states, 16 of each.
#include "elapse/backends/cuda/gla_chunks.cuh"

namespace elapse::cuda {
namespace gla_chunks {
namespace {

template <class T>
struct Backward {
  GlaChunksBackward<T> call;
  const float* P;  // (rows n_heads, kTile, kTile), as is dP
  float* dP;
  const float* dstates;  // (rows, d_inner, d_k): of the states after each chunk
};

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    scores_backward_kernel(const __grid_constant__ Backward<T> a) {
  __shared__ alignas(128) char memory[2 * InputTile<T>::kBytes];
  const InputTile<T> v(memory), dy(memory + InputTile<T>::kBytes);
  const GlaChunks<T>& in = a.call.in;
  const Chunk chunk(in.sizes, blockIdx.x / in.sizes.n_heads);
  if (chunk.len == 0) return;
  const int64_t head = blockIdx.x % in.sizes.n_heads;
  TileSums sums;
  for (int64_t tile = 0; tile < in.sizes.tiles(); ++tile) {
    const Channels channels(in.sizes, head * in.sizes.tiles() + tile);
    __syncthreads();
    load_tile(v, in.v.row(chunk.token) + channels.first, in.v.stride, chunk.len, channels.count);
    load_tile(dy, a.call.dout.row(chunk.token) + channels.first, a.call.dout.stride, chunk.len,
              channels.count);
    __syncthreads();
    add_product(sums, 0, channels.count, InRows{dy}, InRows{v});
  }
  sums.each([&](int i, int j, float2& v) { v = {j <= i ? v.x : 0.0f, j + 1 <= i ? v.y : 0.0f}; });
  store_sums(sums, a.dP + blockIdx.x * int64_t{kTileElements}, kTile, kTile, kTile);
}

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    values_kernel(const __grid_constant__ Backward<T> a) {
  extern __shared__ float4 shared[];
  __shared__ BlockDecays blocks;
  char* memory = reinterpret_cast<char*>(shared);
  const InputTile<T> dy(memory);
  memory += InputTile<T>::kBytes;
  const ComputedTile<T> k(memory), dH(memory + ComputedTile<T>::kBytes),
      P(memory + 2 * ComputedTile<T>::kBytes);
  const GlaChunks<T>& in = a.call.in;
  const ChunkSizes& sizes = in.sizes;
  const Chunk chunk(sizes, blockIdx.x / sizes.blocks());
  if (chunk.len == 0) return;
  const Channels channels(sizes, blockIdx.x % sizes.blocks());
  load_tile(dy, a.call.dout.row(chunk.token) + channels.first, a.call.dout.stride, chunk.len,
            channels.count);
  load_tile(P, a.P + (chunk.row * sizes.n_heads + channels.head) * int64_t{kTileElements}, kTile,
            chunk.len, chunk.len);
  const int64_t states = (chunk.row * sizes.d_inner() + channels.first) * sizes.d_state;
  TileSums sums;
  for (int64_t n = 0; n < sizes.d_state; n += kTile) {
    const Slice slice(sizes, channels.head, n);
    load_tile(dH, a.dstates + states + n, sizes.d_state, channels.count, slice.count);
    load_decayed<false>(k, blocks, in, chunk, slice);
    add_product(sums, 0, slice.count, InRows{k}, InRows{dH});
    __syncthreads();
  }
  add_product(sums, TileSums::first_row(), kTile, InColumns{P}, InColumns{dy});
  store_sums(sums, a.call.dv.row(chunk.token) + channels.first, a.call.dv.stride, chunk.len,
             channels.count);
}

template <class T>
struct KeysMemory {
  union {
    struct {
      alignas(128) char dy[InputTile<T>::kBytes], v[InputTile<T>::kBytes];
      alignas(128) char h[ComputedTile<T>::kBytes], dH[ComputedTile<T>::kBytes];
    } outside;
    struct {
      // With the decays from, and to, their block's edge.
      alignas(128) char q[ComputedTile<T>::kBytes], k[ComputedTile<T>::kBytes];
      alignas(128) char dP[ComputedTile<T>::kBytes];
      // Of other blocks' tokens, those of dq with what is read of h; of dk; of it by dH.
      float dq[kTileElements], dk[kTileElements], dk_of_states[kTileElements];
    } inside;
  };
  BlockDecays blocks;
  float inner[kBlocks][kTile];    // sums of h dH over a quarter of the channels
  float later[kBlocks][kTile];    // sums of q dq - k dk over a block
  float earlier[kBlocks][kTile];  // and of k dk by dH
};

template <class T>
struct KeysBackward {
  const Backward<T>& a;
  const GlaChunks<T>& in;
  const Chunk chunk;
  const int64_t head;
  const Slice slice;
  KeysMemory<T>& s;
  const KeyColumn own = {};
  TileSums of_h = {}, of_dH = {};  // dy h and v dH
  float inner = 0;

  __device__ void run() {
    for (int64_t tile = 0; tile < in.sizes.tiles(); ++tile) outside(tile);
    s.inner[own.block][own.state] = inner;
    float log_decay[kBlock], q[kBlock], k[kBlock];
    own.load(in.log_decay, chunk, slice, log_decay);
    own.load(in.q, chunk, slice, q);
    own.load(in.k, chunk, slice, k);
    float since[kBlock], until[kBlock];
    sum_decays(own, log_decay, s.blocks, since, until);
    const ComputedTile<T> of_q(s.inside.q), of_k(s.inside.k);
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      since[i] = expf(since[i]);
      until[i] = expf(until[i]);
      of_q.put(own.token(i), own.state, q[i] * since[i]);
      of_k.put(own.token(i), own.state, k[i] * until[i]);
    }
    load_tile(ComputedTile<T>(s.inside.dP),
              a.dP + (chunk.row * in.sizes.n_heads + head) * int64_t{kTileElements}, kTile,
              chunk.len, chunk.len);
    __syncthreads();
    of_blocks();
    __syncthreads();
    column(log_decay, q, k, since, until);
  }

  __device__ void outside(int64_t tile) {
    const Channels channels(in.sizes, head * in.sizes.tiles() + tile);
    const InputTile<T> dy(s.outside.dy), v(s.outside.v);
    const ComputedTile<T> h(s.outside.h), dH(s.outside.dH);
    const int64_t states =
        (chunk.row * in.sizes.d_inner() + channels.first) * in.sizes.d_state + slice.first;
    load_tile(v, in.v.row(chunk.token) + channels.first, in.v.stride, chunk.len, channels.count);
    load_tile(dy, a.call.dout.row(chunk.token) + channels.first, a.call.dout.stride, chunk.len,
              channels.count);
    load_tile(h, a.call.states + states, in.sizes.d_state, channels.count, slice.count);
    load_tile(dH, a.dstates + states, in.sizes.d_state, channels.count, slice.count);
    __syncthreads();
    add_product(of_h, 0, channels.count, InRows{dy}, InColumns{h});
    add_product(of_dH, 0, channels.count, InRows{v}, InColumns{dH});
    for (int e = own.block * kBlock; e < (own.block + 1) * kBlock; ++e) {
      inner = fmaf(h.get(e, own.state), dH.get(e, own.state), inner);
    }
    __syncthreads();
  }

  // From the products' elements to tiles: what tokens of other blocks ask of each other, block by
  // block towards the warp's, decayed by each; but for the decays within their own blocks.
  __device__ void of_blocks() {
    const int block = TileSums::first_row() / kBlock;
    const ComputedTile<T> dP(s.inside.dP);
    TileSums dq, dk;
    for (int other = 0; other < block; ++other) {
      decay(dq, other);
      add_product(dq, other * kBlock, (other + 1) * kBlock, InRows{dP},
                  InColumns{ComputedTile<T>(s.inside.k)});
    }
    for (int other = kBlocks - 1; other > block; --other) {
      decay(dk, other);
      add_product(dk, other * kBlock, (other + 1) * kBlock, InColumns{dP},
                  InColumns{ComputedTile<T>(s.inside.q)});
    }
    of_h.each([&](int, int n, float2& v) {
      v.x *= expf(s.blocks.before(block, n));
      v.y *= expf(s.blocks.before(block, n + 1));
    });
    dq.add(of_h);
    dq.each([&](int i, int n, float2 v) { FloatTile(s.inside.dq).put_pair(i, n, v); });
    dk.each([&](int j, int n, float2 v) { FloatTile(s.inside.dk).put_pair(j, n, v); });
    of_dH.each([&](int j, int n, float2 v) {
      v.x *= expf(s.blocks.after(block, n));
      v.y *= expf(s.blocks.after(block, n + 1));
      FloatTile(s.inside.dk_of_states).put_pair(j, n, v);
    });
  }
  __device__ void decay(TileSums& sums, int block) const {
    sums.each([&](int, int n, float2& v) {
      v.x *= expf(s.blocks.of[block][n]);
      v.y *= expf(s.blocks.of[block][n + 1]);
    });
  }

  // The pairs within this thread's block, of its state; and all that is summed up from there.
  __device__ void column(const float (&log_decay)[kBlock], const float (&q)[kBlock],
                         const float (&k)[kBlock], const float (&since)[kBlock],
                         const float (&until)[kBlock]) const {
    float dq[kBlock], dk[kBlock], left[kBlock], decays[kBlock];  // of k_j up to the i at hand
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      const int at = FloatTile::place(own.token(i), own.state);
      dq[i] = since[i] * s.inside.dq[at];
      dk[i] = until[i] * s.inside.dk[at];
      left[i] = until[i] * s.inside.dk_of_states[at];
    }
    const ComputedTile<T> dP(s.inside.dP);
    float own_dP[kBlock];
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      const float step = expf(log_decay[i]);
#pragma unroll
      for (int j = 0; j < i; ++j) {
        decays[j] = j + 1 < i ? decays[j] * step : step;
        const float asked = dP.get(own.token(i), own.block * kBlock + j) * decays[j];
        dq[i] = fmaf(asked, k[j], dq[i]);
        dk[j] = fmaf(asked, q[i], dk[j]);
      }
      own_dP[i] = dP.get(own.token(i), own.token(i));
    }
    float later = 0, earlier = 0;
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      later += q[i] * dq[i] - k[i] * dk[i];
      earlier += k[i] * left[i];
    }
    s.later[own.block][own.state] = later;
    s.earlier[own.block][own.state] = earlier;
    __syncthreads();
    put(q, k, dq, dk, left, own_dP);
  }

  __device__ void put(const float (&q)[kBlock], const float (&k)[kBlock], const float (&dq)[kBlock],
                      const float (&dk)[kBlock], const float (&left)[kBlock],
                      const float (&own_dP)[kBlock]) const {
    float later = 0, earlier = 0, of_chunk = 0;
    for (int b = 0; b < kBlocks; ++b) of_chunk += s.inner[b][own.state];
    of_chunk *= expf(s.blocks.before(kBlocks, own.state));
    for (int b = kBlocks - 1; b > own.block; --b) later += s.later[b][own.state];
    for (int b = 0; b < own.block; ++b) earlier += s.earlier[b][own.state];
    float writes[kBlock];  // before each token
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      writes[i] = earlier;
      earlier = fmaf(k[i], left[i], earlier);
    }
#pragma unroll
    for (int i = kBlock - 1; i >= 0; --i) {
      later += q[i] * dq[i] - k[i] * dk[i];
      if (own.token(i) >= chunk.len || own.state >= slice.count) continue;
      const int64_t t = chunk.token + own.token(i), column = slice.column + own.state;
      a.call.dq(t, column) = static_cast<T>(fmaf(own_dP[i], k[i], dq[i]));
      a.call.dk(t, column) = static_cast<T>(fmaf(own_dP[i], q[i], dk[i] + left[i]));
      a.call.dlog_decay(t, column) = static_cast<T>(of_chunk + writes[i] + later);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    keys_kernel(const __grid_constant__ Backward<T> a) {
  extern __shared__ float4 memory[];
  const GlaChunks<T>& in = a.call.in;
  const int64_t blocks = in.sizes.n_heads * in.sizes.slices(), block = blockIdx.x % blocks;
  const Chunk chunk(in.sizes, blockIdx.x / blocks);
  if (chunk.len == 0) return;
  const int64_t head = block / in.sizes.slices();
  const Slice slice(in.sizes, head, block % in.sizes.slices() * kTile);
  KeysBackward<T>{a, in, chunk, head, slice, *reinterpret_cast<KeysMemory<T>*>(memory)}.run();
}

}  // namespace
}  // namespace gla_chunks

template <class T>
bool can_run_gla_chunks() {
  return grant(gla_chunks::keys_kernel<T>, int{sizeof(gla_chunks::KeysMemory<T>)}, "gla_backward");
}
template bool can_run_gla_chunks<float>();
template bool can_run_gla_chunks<bf16>();

template <class T>
void gla_chunks_backward(Device& device, const GlaChunksBackward<T>& a) {
  using namespace gla_chunks;
  constexpr int kBytesOfValues = InputTile<T>::kBytes + 3 * ComputedTile<T>::kBytes;
  const GlaChunks<T>& in = a.in;
  const ChunkSizes& sizes = in.sizes;
  const Tensor dstates =
      device.empty(DType::f32, Shape{sizes.rows(), sizes.d_inner() * sizes.d_state});
  add_up_chunks<T>(device, in, a.dout, dstates.data<float>(), a.dend, a.dstart, true);
  const Tensor P = scores(device, in), dP = device.empty(DType::f32, P.shape());
  const Backward<T> args = {a, P.data<float>(), dP.data<float>(), dstates.data<float>()};
  launch(device, "gla_backward", scores_backward_kernel<T>, grid_of(sizes.rows() * sizes.n_heads),
         kTileThreads, 0, args);
  grant(values_kernel<T>, kBytesOfValues, "gla_backward");
  launch(device, "gla_backward", values_kernel<T>, grid_of(sizes.rows() * sizes.blocks()),
         kTileThreads, kBytesOfValues, args);
  launch(device, "gla_backward", keys_kernel<T>,
         grid_of(sizes.rows() * sizes.n_heads * sizes.slices()), kTileThreads,
         int{sizeof(KeysMemory<T>)}, args);
}
template void gla_chunks_backward(Device&, const GlaChunksBackward<float>&);
template void gla_chunks_backward(Device&, const GlaChunksBackward<bf16>&);

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// Gradients pass from chunk to chunk first (ssd_chunks_states.cu); then a block takes a chunk and
// four tiles of a group's channels, one after another. With w = dt x, dy the gradient of y, dH that
// of the states after the chunk:
//   G_ij = L_ij (dy_i . w_j)                            (the gradient of C_i . B_j)
//   dw_j = sum_i (C_i . B_j) L_ij dy_i + exp(a_e - a_j) dH B_j
//   dC_i = sum_j G_ij B_j + exp(a_i) h^T dy_i
//   dB_j = sum_i G_ij C_i + exp(a_e - a_j) dH^T w_j
// The gradient of dt A at token t is the sum of all terms that cross it: G_ij (C_i . B_j) with
// j < t <= i, reads of h from t on, writes before t that are left at the end, and h's own rest.
// They are added as they are: differences of sums would lose them where decays are strong. dB and
// dC of a block's tiles, 8 bytes a token and state, are then summed over a group's.
//
// Bound: the products, 64 (3 64 / 2 + 5 d_state) multiplications a token and tile, three times over
// on the matrix units in float32 and twice in bf16; bytes of dB and dC and, twice, of the states.
#include "elapse/backends/cuda/ssd_chunks.cuh"

namespace elapse::cuda {
namespace ssd_chunks {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kTileThreads / 32;
constexpr int64_t kTilesOfPart = 4;

template <class T>
struct Backward {
  SsdChunksBackward<T> call;
  const float* scores;
  const float* dstates;  // (rows, d_inner, d_state): of the states after each chunk
  float* dB;             // (groups parts, tokens, d_state), as is dC
  float* dC;

  __host__ __device__ int64_t tiles_of_group() const {
    return call.in.heads_of_group * call.in.sizes.tiles();
  }
  __host__ __device__ int64_t parts() const {
    return (tiles_of_group() + kTilesOfPart - 1) / kTilesOfPart;
  }
};

template <class T>
struct Shared {
  alignas(128) char x[InputTile<T>::kBytes], dy[InputTile<T>::kBytes];
  alignas(128) char G[ComputedTile<T>::kBytes];
  alignas(128) char decayed[ComputedTile<T>::kBytes];  // (C B^T) o L; then dH, then h, of 64 states
  union {
    struct {
      alignas(128) char B[InputTile<T>::kBytes], C[InputTile<T>::kBytes];
    };
    alignas(128) char products[FloatTile::kBytes];  // G o (C B^T), before these
  };
  Decays decays;
  float of_warp[kWarps][kTile];
  float of_row[3][2][kTile];  // sums over a row's columns, by halves
  float inner[kWarps];        // h . dH
};

template <class T>
struct ChunkBackward {
  const Backward<T>& a;
  const SsdChunks<T>& in;
  const Chunk chunk;
  const Channels channels;
  const int64_t part;  // of dB and dC
  const bool adds;     // to what stands there
  Shared<T>& s;
  const InputTile<T> x{s.x}, dy{s.dy}, B{s.B}, C{s.C};
  const ComputedTile<T> G{s.G}, decayed{s.decayed}, states{s.decayed};
  const FloatTile products{s.products};
  TileSums dw = {}, dw_of_states = {};  // (tokens, channels); the second before exp(a_e - a_j)
  float reads[2] = {};                  // of this thread's rows: dy . (h C) before exp(a_i)
  float inner = 0;

  __device__ int64_t group() const { return channels.head / in.heads_of_group; }
  __device__ int64_t states_row() const {
    return (chunk.row * in.sizes.d_inner() + channels.first) * in.sizes.d_state;
  }

  __device__ void run() {
    load_tile(x, in.x.row(chunk.token) + channels.first, in.x.stride, chunk.len, channels.count);
    load_tile(dy, a.call.dout.row(chunk.token) + channels.first, a.call.dout.stride, chunk.len,
              channels.count);
    s.decays.make(in, chunk, channels.head);
    within();
    for (int64_t n = 0; n < in.sizes.d_state; n += kTile) slice(n);
    values();
    __syncthreads();
    exponents();
    skip();
  }

  // What tokens of the chunk ask of each other.
  __device__ void within() {
    TileSums of_pairs;
    if (TileSums::first_column() < TileSums::first_row() + 16) {
      add_product(of_pairs, 0, channels.count, InRows{dy}, InRows{x});
    }
    const float* scores = a.scores + (chunk.row * in.groups() + group()) * int64_t{kTileElements};
    of_pairs.each([&](int i, int j, float2 dy_x) {
      const float2 score = load_pair(scores + i * kTile + j);
      const Pair first(s.decays, i, j, score.x, dy_x.x),
          second(s.decays, i, j + 1, score.y, dy_x.y);
      G.put_pair(i, j, {first.g, second.g});
      decayed.put_pair(i, j, {first.decayed, second.decayed});
      products.put_pair(i, j,
                        {j < i ? first.g * score.x : 0.0f, j + 1 < i ? second.g * score.y : 0.0f});
    });
    __syncthreads();
    crossings();
    add_product(dw, TileSums::first_row(), kTile, InColumns{decayed}, InColumns{dy});
  }
  struct Pair {
    float g = 0, decayed = 0;

    __device__ Pair(const Decays& decays, int i, int j, float score, float dy_x) {
      if (j > i) return;
      const float L = decays.between(i, j);
      g = L * (decays.dt[j] * dy_x);
      decayed = L * score;
    }
  };

  // of_warp: for each t the sum of the terms of pairs j < t <= i; a warp takes rows i in turn.
  __device__ void crossings() const {
    const int lane = TileSums::lane();
    float sums[2] = {};
    for (int i = TileSums::warp(); i < kTile; i += kWarps) {
      const float2 own = products.get_pair(i, 2 * lane);
      float sum = own.x + own.y;
      for (int step = 1; step < 32; step *= 2) {
        const float before = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += before;
      }
      float before = __shfl_up_sync(~0u, sum, 1);
      if (lane == 0) before = 0;
      if (2 * lane <= i) sums[0] += before;
      if (2 * lane + 1 <= i) sums[1] += before + own.x;
    }
    s.of_warp[TileSums::warp()][2 * lane] = sums[0];
    s.of_warp[TileSums::warp()][2 * lane + 1] = sums[1];
  }

  // 64 states from n on.
  __device__ void slice(int64_t n) {
    const int count = static_cast<int>(min(in.sizes.d_state - n, int64_t{kTile}));
    const int64_t column = group() * in.sizes.d_state + n;
    __syncthreads();
    load_tile(B, in.B.row(chunk.token) + column, in.B.stride, chunk.len, count);
    load_tile(C, in.C.row(chunk.token) + column, in.C.stride, chunk.len, count);
    load_tile(states, a.dstates + states_row() + n, in.sizes.d_state, channels.count, count);
    __syncthreads();
    add_product(dw_of_states, 0, count, InRows{B}, InRows{states});
    TileSums sums;
    add_product(sums, 0, channels.count, InRows{x}, InColumns{states});
    scale(sums, [&](int j) { return s.decays.until_end[j] * s.decays.dt[j]; });
    add_product(sums, TileSums::first_row(), kTile, InColumns{G}, InColumns{C});
    store(a.dB, n, count, sums);
    __syncthreads();
    for_tile(a.call.states + states_row() + n, in.sizes.d_state, channels.count, count,
             [&](int p, int k, float4 h) {
               const float4 dH = states.get_four(p, k);
               inner = fmaf(h.x, dH.x, inner);
               inner = fmaf(h.y, dH.y, inner);
               inner = fmaf(h.z, dH.z, inner);
               inner = fmaf(h.w, dH.w, inner);
               states.put_four(p, k, h);
             });
    __syncthreads();
    sums = {};
    add_product(sums, 0, channels.count, InRows{dy}, InColumns{states});
    sums.add_rows(reads, [&](int i, int k) { return C.get_pair(i, k); });
    scale(sums, [&](int i) { return s.decays.since_start[i]; });
    add_product(sums, 0, TileSums::first_row() + 16, InRows{G}, InColumns{B});
    store(a.dC, n, count, sums);
  }

  template <class Factor>
  __device__ static void scale(TileSums& sums, Factor&& factor) {
    sums.each([&](int row, int, float2& v) { v = {v.x * factor(row), v.y * factor(row)}; });
  }

  __device__ void store(float* to, int64_t n, int count, TileSums& sums) const {
    store_sums(sums, to + (part * in.sizes.tokens + chunk.token) * in.sizes.d_state + n,
               in.sizes.d_state, chunk.len, count, adds);
  }

  // dx, and the sums over channels that reach dt and its exponent.
  __device__ void values() {
    float of_x[2] = {}, writes[2] = {};
    scale(dw_of_states, [&](int j) { return s.decays.until_end[j]; });
    dw_of_states.add_rows(writes, [&](int j, int p) { return x.get_pair(j, p); });
    dw.add_rows(of_x, [&](int j, int p) { return x.get_pair(j, p); });
#pragma unroll
    for (int half = 0; half < 2; ++half) of_x[half] += writes[half];
    keep_rows(0, of_x);
    keep_rows(1, writes);
    keep_rows(2, reads);
    dw.add(dw_of_states);
    const float* D = in.D + (in.D_by_channel ? channels.first : channels.head);
    dw.each([&](int j, int p, float2& sum) {
      const float2 of_dy = dy.get_pair(j, p);
      const float dt = s.decays.dt[j];
      if (p < channels.count) sum.x = fmaf(dt, sum.x, D[in.D_by_channel ? p : 0] * of_dy.x);
      if (p + 1 < channels.count) sum.y = fmaf(dt, sum.y, D[in.D_by_channel ? p + 1 : 0] * of_dy.y);
    });
    store_sums(dw, a.call.dx.row(chunk.token) + channels.first, a.call.dx.stride, chunk.len,
               channels.count);
    inner = warp_sum(inner);
    if (TileSums::lane() == 0) s.inner[TileSums::warp()] = inner;
  }

  // A thread's sums of its two rows, added up over those that share them.
  __device__ void keep_rows(int what, float (&sums)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      for (int step = 2; step > 0; step /= 2) {
        sums[half] += __shfl_xor_sync(~0u, sums[half], step);
      }
      if (TileSums::lane() % 4 == 0) {
        s.of_row[what][TileSums::first_column() / 32][TileSums::row(half)] = sums[half];
      }
    }
  }
  __device__ float of_row(int what, int row) const {
    return s.of_row[what][0][row] + s.of_row[what][1][row];
  }

  // A lane has two tokens.
  __device__ void exponents() const {
    if (TileSums::warp() != 0) return;
    const int lane = TileSums::lane();
    float read[2], write[2], of_chunk = 0;
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane + i;
      read[i] = s.decays.since_start[t] * of_row(2, t);
      write[i] = s.decays.dt[t] * of_row(1, t);
    }
    float from = read[0] + read[1], before = write[0] + write[1];
    for (int step = 1; step < 32; step *= 2) {
      const float later = __shfl_down_sync(~0u, from, step);
      const float earlier = __shfl_up_sync(~0u, before, step);
      if (lane + step < 32) from += later;
      if (lane >= step) before += earlier;
    }
    float after = __shfl_down_sync(~0u, from, 1);
    before = __shfl_up_sync(~0u, before, 1);
    if (lane == 31) after = 0;
    if (lane == 0) before = 0;
    for (int w = 0; w < kWarps; ++w) of_chunk += s.inner[w];
    of_chunk *= s.decays.total();
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane + i;
      if (t >= chunk.len) break;
      float sum = of_chunk;
      for (int w = 0; w < kWarps; ++w) sum += s.of_warp[w][t];
      sum += i == 0 ? read[0] + read[1] + after : read[1] + after;
      sum += i == 0 ? before : before + write[0];
      const int64_t at = channels.block * in.sizes.tokens + chunk.token + t;
      a.call.dexponent[at] = sum;
      a.call.ddt[at] = of_row(0, t);
    }
  }

  // Sums of dy x: by the second warp, a lane two channels.
  __device__ void skip() const {
    if (TileSums::warp() != 1) return;
    const int p = 2 * TileSums::lane();
    float first = 0, second = 0;
    for (int i = 0; i < chunk.len; ++i) {
      const float2 of_dy = dy.get_pair(i, p), of_x = x.get_pair(i, p);
      first = fmaf(of_dy.x, of_x.x, first);
      second = fmaf(of_dy.y, of_x.y, second);
    }
    if (in.D_by_channel) {
      float* to = a.call.dD + chunk.row * in.sizes.d_inner() + channels.first;
      if (p < channels.count) to[p] = first;
      if (p + 1 < channels.count) to[p + 1] = second;
      return;
    }
    float sum = first + second;
    sum = warp_sum(sum);
    if (p == 0) {
      a.call.dD[(chunk.row * in.sizes.tiles() + channels.tile) * in.sizes.n_heads + channels.head] =
          sum;
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    backward_kernel(const __grid_constant__ Backward<T> a) {
  extern __shared__ float4 memory[];
  const SsdChunks<T>& in = a.call.in;
  const int64_t parts = in.groups() * a.parts(), part = blockIdx.x % parts;
  const Chunk chunk(in.sizes, blockIdx.x / parts);
  if (chunk.len == 0) return;
  const int64_t end_of_group = (part / a.parts() + 1) * a.tiles_of_group();
  const int64_t first = end_of_group - a.tiles_of_group() + part % a.parts() * kTilesOfPart;
  for (int64_t block = first; block < min(first + kTilesOfPart, end_of_group); ++block) {
    __syncthreads();
    ChunkBackward<T>{a,
                     in,
                     chunk,
                     Channels(in.sizes, block),
                     part,
                     block > first,
                     *reinterpret_cast<Shared<T>*>(memory)}
        .run();
  }
}

// A thread a token, group and state: sums over the group's parts, in their order.
template <class T>
__global__ void groups_kernel(const __grid_constant__ Backward<T> a) {
  const SsdChunks<T>& in = a.call.in;
  const int64_t t = blockIdx.x, column = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (column >= in.groups() * in.sizes.d_state) return;
  const int64_t n = column % in.sizes.d_state;
  float dB = 0, dC = 0;
  for (int64_t i = 0; i < a.parts(); ++i) {
    const int64_t part = column / in.sizes.d_state * a.parts() + i;
    const int64_t at = (part * in.sizes.tokens + t) * in.sizes.d_state + n;
    dB += a.dB[at];
    dC += a.dC[at];
  }
  a.call.dB(t, column) = static_cast<T>(dB);
  a.call.dC(t, column) = static_cast<T>(dC);
}

}  // namespace
}  // namespace ssd_chunks

template <class T>
bool can_run_chunks() {
  return grant(ssd_chunks::backward_kernel<T>, int{sizeof(ssd_chunks::Shared<T>)}, "ssd_backward");
}
template bool can_run_chunks<float>();
template bool can_run_chunks<bf16>();

template <class T>
void ssd_chunks_backward(Device& device, const SsdChunksBackward<T>& a) {
  using namespace ssd_chunks;
  const SsdChunks<T>& in = a.in;
  const Tensor decays = device.empty(DType::f32, Shape{in.sizes.rows(), in.sizes.n_heads});
  const Tensor dstates =
      device.empty(DType::f32, Shape{in.sizes.rows(), in.sizes.d_inner() * in.sizes.d_state});
  add_up_chunks<T>(device, {in, a.dout, in.C, dstates.data<float>(), decays.data<float>()}, a.dend,
                   a.dstart, true);
  const Tensor scores = ssd_scores(device, in);
  Backward<T> args = {a, scores.data<float>(), dstates.data<float>(), nullptr, nullptr};
  const int64_t parts = in.groups() * args.parts();
  const Tensor sums =
      device.empty(DType::f32, Shape{2, parts * in.sizes.tokens * in.sizes.d_state});
  args.dB = sums.data<float>();
  args.dC = args.dB + sums.dim(1);
  launch(device, "ssd_backward", backward_kernel<T>, grid_of(in.sizes.rows() * parts), kTileThreads,
         int{sizeof(Shared<T>)}, args);
  launch(device, "ssd_backward", groups_kernel<T>,
         grid_of(in.sizes.tokens, divide_up(in.groups() * in.sizes.d_state, kThreads)), kThreads, 0,
         args);
}
template void ssd_chunks_backward(Device&, const SsdChunksBackward<float>&);
template void ssd_chunks_backward(Device&, const SsdChunksBackward<bf16>&);

}  // namespace elapse::cuda

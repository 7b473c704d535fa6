// SPDX-License-Identifier: Apache-2.0
// The selective scan, backward; selective_scan.cuh says how work is laid out. A block takes the 16
// tokens between two checkpoints at a time, the last first:
//   1. dt, dt x and the gradient of ssm_out, each once, into shared memory.
//   2. The states again from the checkpoint on, kept in registers.
//   3. Back over the tokens: the gradient of the state, and what it gives to every input. What B
//      and C get from each channel goes through shared memory, where a warp sums its channels, then
//      the block its warps; a last kernel sums the blocks. All in a fixed order.
//
// Bound: about 27 instructions a state and token with the sums over channels and the work a token
// has once. On 132 multiprocessors at 1.755 GHz that is 0.37 ms for (8, 2048, 1536) at 16 states;
// memory, with 32 bytes a (token, channel), 0.27 ms at 3 TB/s. What holds it back is shared memory:
// docs/cuda.md.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/selective_scan_backward.cuh"

namespace elapse::cuda {
namespace {

using namespace scan;

constexpr int64_t kWarpsAtATime = 132 * 12;
constexpr float kLn2 = 0.693147180559945309417f;

template <class T, int kLanes, int kStates, bool kTaps>
struct Walk {
  using At = Lane<T, kLanes, kStates>;
  using Shared = Layout<T, kLanes, kStates>;
  // Of the loops over a tile; with taps nothing is gained by it.
  static constexpr int kUnroll = kTaps ? 1 : kTile, kUnrollStates = kTaps ? 1 : kStates;

  const Backward<T>& a;
  const At& at;
  typename Shared::Block& block;
  typename Shared::Warp& shared;
  const OwnMasks masks;
  const ChannelSums channel_sums;
  float A2[kStates], dh[kStates] = {}, dA[kStates] = {};
  float dD = 0, dbias = 0, bias, skip;
  int stage = 0;  // which of the block's holds the tile at hand

  __device__ Walk(const Backward<T>& args, const At& lane, typename Shared::Block& memory, int warp)
      : a(args), at(lane), block(memory), shared(memory.warps[warp]), masks(lane), channel_sums(lane) {
    load_A(a.in, at, A2);
    bias = a.in.dt_bias[at.e];
    skip = a.in.D[at.e];
  }

  __device__ void load(const float* table, int64_t row, float (&states)[kStates]) const {
    load_states(table + state_row(a.in, row, at.e), at, a.in.d_state, a.in.vectors, states);
  }
  __device__ void store(float* table, int64_t row, const float (&states)[kStates]) const {
    if (!at.active) return;
    store_states(table + state_row(a.in, row, at.e), at, a.in.d_state, a.in.vectors, states);
  }

  __device__ float through(ScanPoint p, float v, int64_t t, int n = 0) const {
    bool changed = false;
    if constexpr (kTaps) return a.taps.through(p, v, t, at.e, n, changed);
    return v;
  }
  __device__ float back(ScanPoint p, float v, int64_t t, int n = 0) const {
    if constexpr (kTaps) return a.taps.back(p, v, t, at.e, n);
    return v;
  }

  // Copies a tile's factors, and its tokens of the block's channels, into shared memory; the last
  // token stands for those beyond.
  __device__ void fetch(const Chunk& chunk, int tile) {
    const int last = static_cast<int>(chunk.end - chunk.begin) - 1, first = tile * kTile;
    const int64_t channel = blockIdx.y * int64_t{Shared::kBlockChannels};
    auto& own = block.own[tile % 2];
    own.fetch(0, a.in.x, a.in, channel, chunk.begin, first, last);
    own.fetch(1, a.in.dt_raw, a.in, channel, chunk.begin, first, last);
    own.fetch(2, a.in.z, a.in, channel, chunk.begin, first, last);
    own.fetch(3, a.dout, a.in, channel, chunk.begin, first, last);
    block.stages[tile % 2].fetch(a.in, chunk.begin, first, last);
  }

  // The lane's own token of group i.
  __device__ int own_place(int i) const { return i * kGroup + at.own; }
  __device__ Own own_of(int i) const {
    const auto& own = block.own[stage].of;
    const int place = own_place(i),
              e = static_cast<int>(threadIdx.x) / 32 * Shared::kChannels + at.c;
    return {static_cast<float>(own[0][place][e]), static_cast<float>(own[1][place][e]),
            static_cast<float>(own[2][place][e]), static_cast<float>(own[3][place][e])};
  }
  __device__ bool is_real(const Tile<T>& tile, int place) const {
    return place <= tile.last && at.active;
  }

  // The gradient of ssm_out.
  __device__ float dssm_of(const Own& own, int64_t t) const {
    const float gate = through(ScanPoint::gate, own.z * fast_sigmoid(own.z), t);
    return back(ScanPoint::ssm_out, own.dout * gate, t);
  }

  // Step 1. Tokens that are not there take steps of 0 and have no gradient.
  __device__ void steps(const Tile<T>& tile) {
#pragma unroll kUnroll
    for (int i = 0; i < kGroups; ++i) {
      const int place = own_place(i);
      const int64_t t = tile.begin + place;
      const Own own = own_of(i);
      float dt = 0, dtx = 0, dy = 0;
      if (is_real(tile, place)) {
        const float dt_pre = through(ScanPoint::dt_pre, own.dt_raw + bias, t);
        dt = through(ScanPoint::dt, fast_softplus(dt_pre), t);
        const float dssm = dssm_of(own, t);
        dy = back(ScanPoint::y, dssm, t);
        dtx = dt * own.x;
        dD = fmaf(dssm, own.x, dD);
      }
      if (at.g < kGroup) {
        shared.dt[at.c][place] = dt;
        shared.dtx[at.c][place] = dtx;
        shared.dy[at.c][place] = dy;
      }
    }
    __syncwarp();
  }

  // Step 2: h becomes the last state, h_before those before each token.
  __device__ void states_again(const Tile<T>& tile, float (&h)[kStates],
                               float (&h_before)[kTile][kStates]) {
    const auto& staged = block.stages[stage];
#pragma unroll kUnroll
    for (int i = 0; i < kGroups; ++i) {
      float dts[kGroup];
      load_four(&shared.dt[at.c][i * kGroup], dts);
      const auto writes = outer(shared.dtx[at.c], staged.B, i);
      float write[2][kStates];
#pragma unroll kUnroll
      for (int j = 0; j < kGroup; ++j) {
        const int place = i * kGroup + j;
        const int64_t t = tile.begin + place;
        const bool real = is_real(tile, place);
        float x = 0;
        if (j % 2 == 0) writes.at_tokens(j, write);
        if constexpr (kTaps) x = real ? static_cast<float>(a.in.x(t, at.e)) : 0.0f;
#pragma unroll kUnrollStates
        for (int n = 0; n < kStates; ++n) {
          h_before[place][n] = h[n];
          h[n] = state_after(h[n], real, t, n, dts[j], x, write[j % 2][n], staged.B[place]);
        }
      }
    }
    __syncwarp();  // or the compiler would keep all decays for step 3, in memory
  }

  // The products of a channel's four values with a factor's rows, for the lane's states.
  struct Outer {
    const At& at;
    float values[kGroup];
    const T (*rows)[Shared::kPadded];

    __device__ void at_tokens(int j, float (&out)[2][kStates]) const {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        load_factors(rows[j + k], at, out[k]);
#pragma unroll
        for (int n = 0; n < kStates; ++n) out[k][n] *= values[j + k];
      }
    }
  };
  __device__ auto outer(const float (&values)[Shared::kRow], const T (*rows)[Shared::kPadded],
                        int i) const {
    if constexpr (At::kProducts) {
      return Writes<T>(at, masks, values[own_place(i)], rows[own_place(i)]);
    } else {
      Outer outer = {at, {}, rows + i * kGroup};
      load_four(&values[i * kGroup], outer.values);
      return outer;
    }
  }

  __device__ bool is_tapped(bool real, int n) const {
    return kTaps && real && at.state(n) < a.in.d_state;
  }

  __device__ float state_after(float h, bool real, int64_t t, int n, float dt, float x, float write,
                               const T* B) const {
    float decay = exp2_fast(dt * A2[n]);
    if (!is_tapped(real, n)) return fmaf(decay, h, write);
    const int state = at.state(n);
    const float plain = dt * static_cast<float>(B[state]);
    const float B_bar = through(ScanPoint::B_bar, plain, t, state);
    if (B_bar != plain) write = B_bar * x;
    decay = through(ScanPoint::decay, decay, t, state);
    write = through(ScanPoint::write, write, t, state);
    return through(ScanPoint::h, fmaf(decay, h, write), t, state);
  }

  // What the states of two tokens that follow each other give on, backwards.
  struct Back {
    float read[2][kStates];      // times dy, to C
    float to_B[2][kStates];      // times dt x to B; through edits of B_bar times dt
    float to_x[2][kStates];      // times B, to dt x; through edits whole, to x
    float exponent[2][kStates];  // to dt, times ln 2
  };
  __device__ void state_back(bool real, int64_t t, int k, int n, float dt, float x, float dread,
                             const T* B, float before, float after, Back& out) {
    const float decay = exp2_fast(dt * A2[n]);
    float kept = decay, dexponent;
    out.read[k][n] = after;
    if (is_tapped(real, n)) {
      const int state = at.state(n);
      out.read[k][n] = through(ScanPoint::readout_h, after, t, state);
      dh[n] = back(ScanPoint::h, dh[n] + back(ScanPoint::readout_h, dread, t, state), t, state);
      const float dwrite = back(ScanPoint::write, dh[n], t, state);
      const float dB_bar = back(ScanPoint::B_bar, dwrite * x, t, state);
      const float ddecay = back(ScanPoint::decay, dh[n] * before, t, state);
      kept = through(ScanPoint::decay, decay, t, state);
      out.to_B[k][n] = out.to_x[k][n] = dwrite;
      dexponent = dh[n] * (decay * before);
      if (a.taps.edited) {
        const float B_bar = dt * static_cast<float>(B[state]);
        out.to_B[k][n] = dB_bar;
        out.to_x[k][n] = dwrite * through(ScanPoint::B_bar, B_bar, t, state);
        dexponent = ddecay * decay;
      }
    } else {
      dh[n] += dread;
      out.to_B[k][n] = out.to_x[k][n] = dh[n];
      dexponent = dh[n] * (decay * before);
    }
    out.exponent[k][n] = dexponent * A2[n];
    dA[n] = fmaf(dexponent, dt, dA[n]);
    dh[n] *= kept;
  }

  // Step 3, for one group of four tokens: calls take(j, Back) for tokens j and j + 1, the last
  // first.
  template <class Take>
  __device__ void walk_back(const Tile<T>& tile, int i, const float (&h)[kStates],
                            const float (&h_before)[kTile][kStates], const Take& take) {
    const auto& staged = block.stages[stage];
    float dts[kGroup];
    load_four(&shared.dt[at.c][i * kGroup], dts);
    const auto dreads = outer(shared.dy[at.c], staged.C, i);
#pragma unroll kUnroll
    for (int j = kGroup - 2; j >= 0; j -= 2) {
      float dread[2][kStates];
      dreads.at_tokens(j, dread);
      Back given;
#pragma unroll kUnroll
      for (int k = 1; k >= 0; --k) {
        const int place = i * kGroup + j + k;
        const int64_t t = tile.begin + place;
        const bool real = is_real(tile, place);
        float x = 0;
        if constexpr (kTaps) x = real ? static_cast<float>(a.in.x(t, at.e)) : 0.0f;
#pragma unroll kUnrollStates
        for (int n = 0; n < kStates; ++n) {
          const float after = place + 1 < kTile ? h_before[(place + 1) % kTile][n] : h[n];
          state_back(real, t, k, n, dts[j + k], x, dread[k][n], staged.B[place],
                     h_before[place][n], after, given);
        }
      }
      take(j, given);
    }
  }

  __device__ bool edited() const { return kTaps && a.taps.edited; }
  // What to_B is multiplied with.
  __device__ const float (*to_B_factors() const)[Shared::kRow] {
    return edited() ? shared.dt : shared.dtx;
  }

  // With sums by the matrix unit; `dys` and `to_B_values` are for those over channels.
  __device__ void group_by_products(const Tile<T>& tile, int i, const float (&h)[kStates],
                                    const float (&h_before)[kTile][kStates],
                                    const float (&dys)[4], const float (&to_B_values)[4],
                                    int warp) {
    const auto& staged = block.stages[stage];
    Reads<T> y(at, masks, &staged.C[i * kGroup]), to_B_bar(at, masks, &staged.B[i * kGroup]),
        to_x = edited() ? Reads<T>(masks) : to_B_bar, to_dt(masks);
    walk_back(tile, i, h, h_before, [&](int j, const Back& given) {
      y.add(j, given.read);
      to_x.add(j, given.to_x);
      if constexpr (kTaps) to_B_bar.add(j, given.to_B);
      to_dt.add(j, given.exponent);
      channel_sums.store(at, dys, i * kGroup + j, given.read, block.sums[warp][0]);
      channel_sums.store(at, to_B_values, i * kGroup + j, given.to_B, block.sums[warp][1]);
    });
    own_back(tile, i, y.own(), to_x.own(), to_dt.own() * kLn2, kTaps ? to_B_bar.own() : 0.0f);
    __syncwarp();  // loads of the next group stay behind it: there are no registers for them
  }

  __device__ void group_by_lanes(const Tile<T>& tile, int i, const float (&h)[kStates],
                                 const float (&h_before)[kTile][kStates], int warp) {
    const auto& staged = block.stages[stage];
    float y[kGroup] = {}, to_x[kGroup] = {}, to_dt[kGroup] = {}, to_B_bar[kGroup] = {};
    walk_back(tile, i, h, h_before, [&](int first, const Back& given) {
#pragma unroll
      for (int k = 1; k >= 0; --k) {
        const int j = first + k, place = i * kGroup + j;
        float B[kStates], C[kStates], to_C[kStates], to_B[kStates];
        load_factors(staged.B[place], at, B);
        load_factors(staged.C[place], at, C);
        const float dy = shared.dy[at.c][place], v = to_B_factors()[at.c][place];
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
          to_C[n] = dy * given.read[k][n];
          to_B[n] = v * given.to_B[k][n];
          y[j] = fmaf(C[n], given.read[k][n], y[j]);
          to_x[j] = fmaf(edited() ? 1.0f : B[n], given.to_x[k][n], to_x[j]);
          to_dt[j] += given.exponent[k][n];
          if constexpr (kTaps) to_B_bar[j] = fmaf(B[n], given.to_B[k][n], to_B_bar[j]);
        }
        give(j, to_C, to_B);
      }
    });
    __syncwarp();
    sum_channels(block.sums[warp], i % Shared::kSummedGroups * kGroup);
    const float dx = sum_lanes<kLanes>(to_x, at.lane), ddt = sum_lanes<kLanes>(to_dt, at.lane);
    float dB_bars = 0;
    if constexpr (kTaps) dB_bars = sum_lanes<kLanes>(to_B_bar, at.lane);
    own_back(tile, i, sum_lanes<kLanes>(y, at.lane), dx, ddt * kLn2, dB_bars);
    __syncwarp();
  }

  // To C and B from the lane's states at token j of a group.
  __device__ void give(int j, const float (&to_C)[kStates], const float (&to_B)[kStates]) const {
    const int first = (at.c * kLanes + at.g) * kStates;
#pragma unroll
    for (int n = 0; n < kStates; n += 4) {
      *reinterpret_cast<float4*>(&shared.given[0][j][first + n]) = {to_C[n], to_C[n + 1],
                                                                    to_C[n + 2], to_C[n + 3]};
      *reinterpret_cast<float4*>(&shared.given[1][j][first + n]) = {to_B[n], to_B[n + 1],
                                                                    to_B[n + 2], to_B[n + 3]};
    }
  }

  __device__ void own_back(const Tile<T>& tile, int i, float y, float dx, float ddt,
                           float dB_bars) {
    const int place = own_place(i);
    if (!is_real(tile, place)) return;
    const int64_t t = tile.begin + place;
    const Own own = own_of(i);
    const float dt = shared.dt[at.c][place];
    const float dssm = kTaps ? dssm_of(own, t) : shared.dy[at.c][place];
    const float dt_pre = through(ScanPoint::dt_pre, own.dt_raw + bias, t);
    const float to_x = fmaf(dssm, skip, edited() ? dx : dx * dt);
    const float to_dt = edited() ? ddt + dB_bars : fmaf(dx, own.x, ddt);
    const float slope = dt_pre > 20.0f ? 1.0f : fast_sigmoid(dt_pre);
    const float ddt_pre = back(ScanPoint::dt_pre, back(ScanPoint::dt, to_dt, t) * slope, t);
    const float s = fast_sigmoid(own.z);
    const float ssm_out =
        through(ScanPoint::ssm_out, fmaf(skip, own.x, through(ScanPoint::y, y, t)), t);
    const float dgate = back(ScanPoint::gate, own.dout * ssm_out, t);
    dbias += ddt_pre;
    if (at.g >= kGroup) return;
    tile.dx[place] = static_cast<T>(to_x);
    tile.ddt_raw[place] = static_cast<T>(ddt_pre);
    tile.dz[place] = static_cast<T>(dgate * (s * (1.0f + own.z * (1.0f - s))));
  }

  // The warp's channels, summed for C and B of four tokens: four states a lane at a time.
  template <int kTokens>
  __device__ void sum_channels(float (&sums)[2][kTokens][Shared::kSums], int first) {
    constexpr int kFours = Shared::kPadded / 4;
#pragma unroll
    for (int k = 0; k < 2 * kGroup * kFours; k += 32) {
      const int place = k + at.lane, four = place % kFours, j = place / kFours % kGroup,
                which = place / kFours / kGroup;
      const float* given = &shared.given[which][j][four * 4];
      float4 sum = *reinterpret_cast<const float4*>(given);
#pragma unroll
      for (int c = 1; c < Shared::kChannels; ++c) {
        const float4 v = *reinterpret_cast<const float4*>(given + c * Shared::kPadded);
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
      *reinterpret_cast<float4*>(&sums[which][first + j][four * 4]) = sum;
    }
  }

  // The block's warps, summed, into the place of its channels among the blocks'.
  __device__ void sum_warps(int64_t begin, int last, int first_group) {
    constexpr int kFours = Shared::kPadded / 4, kTokens = Shared::kSummedGroups * kGroup;
    constexpr int kCount = 2 * kTokens * kFours;
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x); k < kCount; k += Shared::kThreads) {
      const int four = k % kFours, j = k / kFours % kTokens, which = k / kFours / kTokens;
      const int place = first_group * kGroup + j;
      float4 sum = {0, 0, 0, 0};
      for (int w = 0; w < Shared::kBlockWarps; ++w) {
        const float4 v = *reinterpret_cast<const float4*>(&block.sums[w][which][j][four * 4]);
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
      if (place > last) continue;
      float* into = a.dBC + ((blockIdx.y * a.tokens + begin + place) * 2 + which) * Shared::kPadded;
      *reinterpret_cast<float4*>(into + four * 4) = sum;
    }
    __syncthreads();
  }

  // The tokens from a checkpoint on.
  __device__ void run(const Tile<T>& tile, int64_t checkpoint, int warp) {
    float h[kStates], h_before[kTile][kStates];
    load(a.checkpoints, checkpoint, h);
    steps(tile);
    states_again(tile, h, h_before);
    if constexpr (At::kProducts) {
      float dys[4], to_B_values[4];
      channel_sums.load(at, shared.dy, dys);
      channel_sums.load(at, to_B_factors(), to_B_values);
#pragma unroll kUnroll
      for (int i = kGroups - 1; i >= 0; --i) {
        group_by_products(tile, i, h, h_before, dys, to_B_values, warp);
      }
      sum_warps(tile.begin, tile.last, 0);
    } else {
#pragma unroll kUnroll
      for (int i = kGroups - 1; i >= 0; --i) {
        group_by_lanes(tile, i, h, h_before, warp);
        if (i % Shared::kSummedGroups == 0) sum_warps(tile.begin, tile.last, i);
      }
    }
  }

  __device__ void chunk(const Chunk& chunk, int warp) {
    const int len = static_cast<int>(max(chunk.end - chunk.begin, int64_t{0}));
    const int tiles = (len + kTile - 1) / kTile;
    const int64_t first =
        checkpoint_begin(chunk.first, chunk.s) + (chunk.begin - chunk.first) / kTile;
    if (tiles > 0) fetch(chunk, tiles - 1);
    for (int i = tiles - 1; i >= 0; --i) {
      if (i > 0) fetch(chunk, i - 1);
      __pipeline_wait_prior(i > 0 ? 1 : 0);
      __syncthreads();
      stage = i % 2;
      run(Tile<T>(a, chunk.begin + i * kTile, chunk.end, at.e), first + i, warp);
    }
  }

  __device__ void finish(int64_t part) {
    store(a.dA, part, dA);
    for (int step = 1; step < kGroup; step *= 2) {
      dD += __shfl_xor_sync(~0u, dD, step);
      dbias += __shfl_xor_sync(~0u, dbias, step);
    }
    if (!at.active || at.g > 0) return;
    a.dD[part * a.in.d_inner + at.e] = dD;
    a.dbias[part * a.in.d_inner + at.e] = dbias;
  }
};

// With edits a block walks all chunks of its sequence, the last first; else one chunk.
template <class T, int kLanes, int kStates, bool kTaps>
__global__ void __launch_bounds__((Layout<T, kLanes, kStates>::kThreads),
                                  (kTaps || kStates > 4 ? 1 : 3))
    backward_kernel(const __grid_constant__ Backward<T> a) {
  using Shared = Layout<T, kLanes, kStates>;
  extern __shared__ float4 memory[];
  auto& block = *reinterpret_cast<typename Shared::Block*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first_channel =
      (blockIdx.y * int64_t{Shared::kBlockWarps} + warp) * Shared::kChannels;
  const Lane<T, kLanes, kStates> at(a.in, first_channel);
  Walk<T, kLanes, kStates, kTaps> walk(a, at, block, warp);
  int64_t row = blockIdx.x, first_row = row;
  if (kTaps && a.taps.edited) {
    const int64_t s = blockIdx.x, len = a.in.cu[s + 1] - a.in.cu[s];
    first_row = a.in.cu[s] / a.in.chunk + s;
    row = first_row + (len > 0 ? (len - 1) / a.in.chunk : 0);
  }
  Chunk chunk(a.in, row);
  const bool any = chunk.begin < chunk.last;
  if (any && at.active) walk.load(a.carries, row, walk.dh);
  for (;; chunk = Chunk(a.in, --row)) {
    walk.chunk(chunk, warp);
    if (row == first_row) break;
  }
  if (any && chunk.is_first() && a.dstart != nullptr) walk.store(a.dstart, chunk.s, walk.dh);
  walk.finish(blockIdx.x);
}

// Sums over blocks: dB and dC of a token.
template <class T>
__global__ void sum_blocks_kernel(const float* dBC, int64_t blocks, int64_t tokens, int padded,
                                  int d_state, Rows<T> dB, Rows<T> dC) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, size = tokens * 2 * padded;
  if (i >= size) return;
  const int n = static_cast<int>(i % padded);
  if (n >= d_state) return;
  float sum = 0;
  for (int64_t block = 0; block < blocks; ++block) sum += dBC[block * size + i];
  const int64_t t = i / padded / 2;
  (i / padded % 2 == 0 ? dC : dB)(t, n) = static_cast<T>(sum);
}

template <int kLanes, int kStates, class T>
void run(Device& device, const ScanBackward& args, Backward<T> a, bool active, int64_t parts) {
  using Shared = Layout<T, kLanes, kStates>;
  constexpr int kBytes = sizeof(typename Shared::Block);
  const int64_t blocks = divide_up(a.in.d_inner, Shared::kBlockWarps * Shared::kChannels);
  const Shape shape = {blocks, a.tokens, 2, int64_t{Shared::kPadded}};
  const Tensor dBC = device.empty(DType::f32, shape);
  a.dBC = dBC.data<float>();
  const auto kernel = active ? backward_kernel<T, kLanes, kStates, true>
                             : backward_kernel<T, kLanes, kStates, false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        name_of(args.kOp));
  launch(device, name_of(args.kOp), kernel, grid_of(parts, blocks), Shared::kThreads, kBytes, a);
  const int64_t sums = a.tokens * 2 * Shared::kPadded;
  launch(device, name_of(args.kOp), sum_blocks_kernel<T>, grid_of(divide_up(sums, 256)), 256, 0,
         a.dBC, blocks, a.tokens, Shared::kPadded, a.in.d_state, Rows<T>(args.dB),
         Rows<T>(args.dC));
}

}  // namespace

void selective_scan_backward(Device& device, const ScanBackward& args) {
  const int64_t d_inner = args.in.A.dim(0), d_state = args.in.A.dim(1);
  const int64_t n_seqs = args.in.seqs.count();
  if (n_seqs == 0 || d_inner == 0) return;
  TapViews views(device);
  const bool active = any_active_backward(args.taps);
  const Taps taps = view_taps(views, args.taps, d_inner, d_state);
  const int64_t chunk = chunk_for(args.in, kWarpsAtATime);
  const Factors factors(device, args.in);
  Tensor dstart;
  if (args.dpool) dstart = device.empty(DType::f32, {n_seqs, d_inner, d_state});
  float* starts = dstart ? dstart.data<float>() : nullptr;
  const Tensor carries = carry_backward(device, args, factors, chunk, taps.edited, starts);
  const int64_t parts = taps.edited ? n_seqs : chunk_rows(args.in, chunk);
  const Tensor sums = device.empty(DType::f32, {parts, d_inner, d_state + 2});
  float* dA = sums.data<float>();
  float* dD = dA + parts * d_inner * d_state;
  float* dbias = dD + parts * d_inner;
  with_type(args.in.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Backward<T> a = {.in = inputs_of<T>(args.in, factors, chunk, {args.checkpoints}, {args.dout}),
                           .dout = Rows<const T>(args.dout),
                           .checkpoints = args.checkpoints.data<float>(),
                           .carries = carries.data<float>(),
                           .dx = Rows<T>(args.dx),
                           .ddt_raw = Rows<T>(args.ddt_raw),
                           .dz = Rows<T>(args.dz),
                           .dBC = nullptr,
                           .dA = dA,
                           .dD = dD,
                           .dbias = dbias,
                           .dstart = starts,
                           .tokens = args.in.seqs.tokens,
                           .taps = taps};
    with_layout(d_state, [&](auto lanes, auto states) {
      run<decltype(lanes)::value, decltype(states)::value>(device, args, a, active, parts);
    });
  });
  add_parts(device, dA, parts, d_inner * d_state, args.dA.data<float>());
  add_parts(device, dD, parts, d_inner, args.dD.data<float>());
  add_parts(device, dbias, parts, d_inner, args.ddt_bias.data<float>());
  if (args.dpool) give_starts(device, args, starts);
}

}  // namespace elapse::cuda

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
// memory, in float32 with 32 bytes a (token, channel), 0.27 ms at 3 TB/s. docs/cuda.md has what was
// measured.
#include <algorithm>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/selective_scan_backward.cuh"

namespace elapse::cuda {
namespace {

using namespace scan;

constexpr float kLn2 = 0.693147180559945309417f;

template <class T, int kLanes, int kStates, bool kTaps>
struct Walk {
  using At = Lane<kLanes, kStates>;
  using Shared = Layout<T, kLanes, kStates>;
  // Of the loops over a tile; with taps nothing is gained by it.
  static constexpr int kUnroll = kTaps ? 1 : kTile, kUnrollStates = kTaps ? 1 : kStates;

  const Backward<T>& a;
  const At& at;
  typename Shared::Block& block;
  typename Shared::Warp& shared;
  float A2[kStates], dh[kStates] = {}, dA[kStates] = {};
  float dD = 0, dbias = 0, bias, skip;
  int channel;    // of the block's
  int stage = 0;  // which of the block's holds the tile at hand

  __device__ Walk(const Backward<T>& args, const At& lane, typename Shared::Block& memory, int warp)
      : a(args), at(lane), block(memory), shared(memory.warps[warp]) {
    load_A(a.in, at, A2);
    bias = a.in.dt_bias[at.e];
    skip = a.in.D[at.e];
    channel = warp * Shared::kChannels + at.c;
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
  __device__ void fetch(const Chunk& chunk, int64_t checkpoint, int tile) {
    const int last = static_cast<int>(chunk.end - chunk.begin) - 1, first = tile * kTile;
    const int64_t first_channel = blockIdx.y * int64_t{Shared::kBlockChannels};
    auto& own = block.own[tile % 2];
    own.fetch(0, a.in.x, a.in, first_channel, chunk.begin, first, last);
    own.fetch(1, a.in.dt_raw, a.in, first_channel, chunk.begin, first, last);
    own.fetch(2, a.in.z, a.in, first_channel, chunk.begin, first, last);
    own.fetch(3, a.dout, a.in, first_channel, chunk.begin, first, last);
    const float* from = a.checkpoints + state_row(a.in, checkpoint + tile, at.e);
    float* to = block.starts[tile % 2][threadIdx.x];
#pragma unroll
    for (int n = 0; n < kStates; n += 2) {
      if (a.in.vectors && at.state(n) < a.in.d_state) {
        __pipeline_memcpy_async(to + n, from + at.state(n), sizeof(float2));
      } else {
        to[n] = at.state(n) < a.in.d_state ? from[at.state(n)] : 0.0f;
        to[n + 1] = at.state(n + 1) < a.in.d_state ? from[at.state(n + 1)] : 0.0f;
      }
    }
    block.stages[tile % 2].fetch(a.in, chunk.begin, first, last);
  }

  // The lane's own token of group i.
  __device__ int own_place(int i) const { return i * kGroup + at.own; }
  __device__ Own own_of(int i) const {
    const auto& own = block.own[stage].of;
    const int place = own_place(i);
    return {static_cast<float>(own[0][place][channel]), static_cast<float>(own[1][place][channel]),
            static_cast<float>(own[2][place][channel]), static_cast<float>(own[3][place][channel])};
  }
  __device__ bool is_real(const Tile<T>& tile, int place) const {
    return place <= tile.last && at.active;
  }

  // The gradient of ssm_out.
  __device__ float dssm_of(const Own& own, int64_t t) const {
    const float gate = through(ScanPoint::gate, own.z * fast_sigmoid(own.z), t);
    return back(ScanPoint::ssm_out, own.dout * gate, t);
  }

  // Step 1. Tokens that are not there take steps of 0 and have no gradient. Values are read before
  // any is written, so that their chains run side by side.
  __device__ void steps(const Tile<T>& tile) {
    Own owns[kGroups];
    float dt[kGroups] = {}, dtx[kGroups] = {}, dy[kGroups] = {};
#pragma unroll kUnroll
    for (int i = 0; i < kGroups; ++i) owns[i] = own_of(i);
#pragma unroll kUnroll
    for (int i = 0; i < kGroups; ++i) {
      const Own& own = owns[i];
      const int place = own_place(i);
      const int64_t t = tile.begin + place;
      const bool real = is_real(tile, place);
      if (kTaps && !real) continue;
      const float dt_pre = through(ScanPoint::dt_pre, own.dt_raw + bias, t);
      dt[i] = real ? through(ScanPoint::dt, fast_softplus(dt_pre), t) : 0.0f;
      const float dssm = real ? dssm_of(own, t) : 0.0f;
      dy[i] = back(ScanPoint::y, dssm, t);
      const float x = real ? own.x : 0.0f;
      dtx[i] = dt[i] * x;
      dD = fmaf(dssm, x, dD);
    }
    if (at.g < kGroup) {
#pragma unroll kUnroll
      for (int i = 0; i < kGroups; ++i) {
        shared.dt[at.c][own_place(i)] = dt[i];
        shared.dtx[at.c][own_place(i)] = dtx[i];
        shared.dy[at.c][own_place(i)] = dy[i];
      }
    }
    __syncwarp();
  }

  // Step 2, from the state h on.
  __device__ void states_again(const Tile<T>& tile, float (&h)[kStates], States<kStates>& states) {
    const auto& staged = block.stages[stage];
#pragma unroll kUnroll
    for (int i = 0; i < kGroups; ++i) {
      float dts[kGroup], dtxs[kGroup];
      load_four(&shared.dt[at.c][i * kGroup], dts);
      load_four(&shared.dtx[at.c][i * kGroup], dtxs);
#pragma unroll kUnroll
      for (int j = 0; j < kGroup; ++j) {
        const int place = i * kGroup + j;
        const int64_t t = tile.begin + place;
        const bool real = is_real(tile, place);
        float B[kStates], x = 0;
        load_factors(staged.B[place], at, B);
        if constexpr (kTaps) x = real ? static_cast<float>(a.in.x(t, at.e)) : 0.0f;
#pragma unroll kUnrollStates
        for (int n = 0; n < kStates; ++n) {
          states.before[place][n] = h[n];
          h[n] = state_after(h[n], real, t, n, dts[j], dtxs[j], x, B[n]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kStates; ++n) states.last[n] = h[n];
    __syncwarp();  // or the compiler would keep all decays for step 3, in memory
  }

  __device__ bool is_tapped(bool real, int n) const {
    return kTaps && real && at.state(n) < a.in.d_state;
  }

  __device__ float state_after(float h, bool real, int64_t t, int n, float dt, float dtx, float x,
                               float B) const {
    float decay = exp2_fast(dt * A2[n]), write = dtx * B;
    if (!is_tapped(real, n)) return fmaf(decay, h, write);
    const int state = at.state(n);
    const float plain = dt * B;
    const float B_bar = through(ScanPoint::B_bar, plain, t, state);
    if (B_bar != plain) write = B_bar * x;
    decay = through(ScanPoint::decay, decay, t, state);
    write = through(ScanPoint::write, write, t, state);
    return through(ScanPoint::h, fmaf(decay, h, write), t, state);
  }

  // What the states of two tokens that follow each other give on, backwards.
  struct Back {
    float read[2][kStates];       // times dy, to C
    float to_B[2][kStates];       // times dt x to B; through edits of B_bar times dt
    float to_x[2][kStates];       // times B, to dt x; through edits whole, to x
    float dexponent[2][kStates];  // times A, to dt
  };
  __device__ void state_back(bool real, int64_t t, int k, int n, float dt, float x, float C,
                             float dy, const T* B, float before, float after, Back& out) {
    const float decay = exp2_fast(dt * A2[n]);
    float passed, dexponent;
    out.read[k][n] = after;
    if (is_tapped(real, n)) {
      const int state = at.state(n);
      out.read[k][n] = through(ScanPoint::readout_h, after, t, state);
      const float dread = back(ScanPoint::readout_h, C * dy, t, state);
      const float sum = a.taps.edited ? dh[n] + dread : fmaf(C, dy, dh[n]);
      dh[n] = back(ScanPoint::h, sum, t, state);
      const float dwrite = back(ScanPoint::write, dh[n], t, state);
      const float dB_bar = back(ScanPoint::B_bar, dwrite * x, t, state);
      const float ddecay = back(ScanPoint::decay, dh[n] * before, t, state);
      passed = dh[n] * through(ScanPoint::decay, decay, t, state);
      out.to_B[k][n] = out.to_x[k][n] = dwrite;
      dexponent = passed * before;
      if (a.taps.edited) {
        const float B_bar = dt * static_cast<float>(B[state]);
        out.to_B[k][n] = dB_bar;
        out.to_x[k][n] = dwrite * through(ScanPoint::B_bar, B_bar, t, state);
        dexponent = ddecay * decay;
      }
    } else {
      dh[n] = fmaf(C, dy, dh[n]);
      out.to_B[k][n] = out.to_x[k][n] = dh[n];
      passed = dh[n] * decay;
      dexponent = passed * before;
    }
    out.dexponent[k][n] = dexponent;
    dA[n] = fmaf(dexponent, dt, dA[n]);
    dh[n] = passed;
  }

  // Step 3, for one group of four tokens: calls take(j, Back) for tokens j and j + 1, the last
  // first.
  template <class Take>
  __device__ void walk_back(const Tile<T>& tile, int i, const States<kStates>& states,
                            const Take& take) {
    const auto& staged = block.stages[stage];
    float dts[kGroup], dys[kGroup];
    load_four(&shared.dt[at.c][i * kGroup], dts);
    load_four(&shared.dy[at.c][i * kGroup], dys);
#pragma unroll kUnroll
    for (int j = kGroup - 2; j >= 0; j -= 2) {
      float before[2][kStates], after[2][kStates];
      states.get(i * kGroup + j, before, after);
      Back given;
#pragma unroll kUnroll
      for (int k = 1; k >= 0; --k) {
        const int place = i * kGroup + j + k;
        const int64_t t = tile.begin + place;
        const bool real = is_real(tile, place);
        float C[kStates], x = 0;
        load_factors(staged.C[place], at, C);
        if constexpr (kTaps) x = real ? static_cast<float>(a.in.x(t, at.e)) : 0.0f;
#pragma unroll kUnrollStates
        for (int n = 0; n < kStates; ++n) {
          state_back(real, t, k, n, dts[j + k], x, C[n], dys[j + k], staged.B[place], before[k][n],
                     after[k][n], given);
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

  // What four tokens get from a channel's states, each lane its own of them.
  struct Sums {
    const Walk& walk;
    int first;
    float y[kGroup] = {}, to_B_bar[kGroup] = {}, to_x[kGroup] = {}, to_dt[kGroup] = {};

    __device__ Sums(const Walk& w, int i) : walk(w), first(i * kGroup) {}
    __device__ void add(int j, const Back& given) {
      const auto& staged = walk.block.stages[walk.stage];
#pragma unroll
      for (int k = 1; k >= 0; --k) {
        float B[kStates], C[kStates];
        load_factors(staged.B[first + j + k], walk.at, B);
        load_factors(staged.C[first + j + k], walk.at, C);
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
          y[j + k] = fmaf(C[n], given.read[k][n], y[j + k]);
          to_x[j + k] = fmaf(walk.edited() ? 1.0f : B[n], given.to_x[k][n], to_x[j + k]);
          to_dt[j + k] = fmaf(walk.A2[n], given.dexponent[k][n], to_dt[j + k]);
          if constexpr (kTaps) to_B_bar[j + k] = fmaf(B[n], given.to_B[k][n], to_B_bar[j + k]);
        }
      }
    }
    __device__ float own(const float (&sums)[kGroup]) const {
      return sum_lanes<kLanes>(sums, walk.at.lane);
    }
  };

  __device__ void group_back(const Tile<T>& tile, int i, const States<kStates>& states, int warp) {
    Sums sums(*this, i);
    float dys[kGroup], to_B_values[kGroup];
    load_four(&shared.dy[at.c][i * kGroup], dys);
    load_four(&to_B_factors()[at.c][i * kGroup], to_B_values);
    walk_back(tile, i, states, [&](int j, const Back& given) {
      sums.add(j, given);
#pragma unroll
      for (int k = 1; k >= 0; --k) {
        give(j + k, dys[j + k], given.read[k], to_B_values[j + k], given.to_B[k]);
      }
    });
    __syncwarp();
    sum_channels(block.sums[warp], i % Shared::kSummedGroups * kGroup);
    own_back(tile, i, sums.own(sums.y), sums.own(sums.to_x), sums.own(sums.to_dt) * kLn2,
             kTaps ? sums.own(sums.to_B_bar) : 0.0f);
    __syncwarp();
  }

  // To C and B from the lane's states at token j of a group.
  __device__ void give(int j, float dy, const float (&read)[kStates], float v,
                       const float (&to_B)[kStates]) const {
    float* given = &shared.given[0][j][(at.c * kLanes + at.g) * kStates];
#pragma unroll
    for (int n = 0; n < kStates; n += 4) {
      *reinterpret_cast<float4*>(given + n) = {dy * read[n], dy * read[n + 1], dy * read[n + 2],
                                               dy * read[n + 3]};
      *reinterpret_cast<float4*>(given + kGroup * Shared::kToken + n) = {
          v * to_B[n], v * to_B[n + 1], v * to_B[n + 2], v * to_B[n + 3]};
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
  __device__ void sum_channels(float (&sums)[2][kTokens][Shared::kPadded], int first) {
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
#pragma unroll
    for (int k = static_cast<int>(threadIdx.x); k < kCount; k += kThreads) {
      const int four = k % kFours, j = k / kFours % kTokens, which = k / kFours / kTokens;
      const int place = first_group * kGroup + j;
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float4 v = *reinterpret_cast<const float4*>(&block.sums[w][which][j][four * 4]);
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
      if (place > last) continue;
      float* into = a.dBC + ((blockIdx.y * a.tokens + begin + place) * 2 + which) * Shared::kPadded;
      *reinterpret_cast<float4*>(into + four * 4) = sum;
    }
    if (Shared::kSummedGroups < kGroups) __syncthreads();  // else the next tile's comes in between
  }

  // The tokens from a checkpoint on.
  __device__ void run(const Tile<T>& tile, int warp) {
    float h[kStates];
    States<kStates> states;
#pragma unroll
    for (int n = 0; n < kStates; ++n) h[n] = block.starts[stage][threadIdx.x][n];
    steps(tile);
    states_again(tile, h, states);
#pragma unroll kUnroll
    for (int i = kGroups - 1; i >= 0; --i) {
      group_back(tile, i, states, warp);
      if (i % Shared::kSummedGroups == 0) sum_warps(tile.begin, tile.last, i);
    }
  }

  __device__ void chunk(const Chunk& chunk, int warp) {
    const int len = static_cast<int>(max(chunk.end - chunk.begin, int64_t{0}));
    const int tiles = (len + kTile - 1) / kTile;
    const int64_t first =
        checkpoint_begin(chunk.first, chunk.s) + (chunk.begin - chunk.first) / kTile;
    if (tiles > 0) fetch(chunk, first, tiles - 1);
    for (int i = tiles - 1; i >= 0; --i) {
      if (i > 0) fetch(chunk, first, i - 1);
      __pipeline_wait_prior(i > 0 ? 1 : 0);
      __syncthreads();
      stage = i % 2;
      run(Tile<T>(a, chunk.begin + i * kTile, chunk.end, at.e), warp);
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
__global__ void __launch_bounds__(kThreads, kTaps || kStates > 4 ? 1 : 3)
    backward_kernel(const __grid_constant__ Backward<T> a) {
  using Shared = Layout<T, kLanes, kStates>;
  extern __shared__ float4 memory[];
  auto& block = *reinterpret_cast<typename Shared::Block*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first_channel = (blockIdx.y * int64_t{kWarps} + warp) * Shared::kChannels;
  const Lane<kLanes, kStates> at(a.in, first_channel);
  Walk<T, kLanes, kStates, kTaps> walk(a, at, block, warp);
  int64_t row = blockIdx.x, earliest = row;
  if (kTaps && a.taps.edited) {
    const int64_t s = blockIdx.x, len = a.in.cu[s + 1] - a.in.cu[s];
    earliest = first_row(a.in, s);
    row = earliest + (len > 0 ? (len - 1) / a.in.chunk : 0);
  }
  Chunk chunk(a.in, row);
  const bool any = chunk.begin < chunk.last;
  if (any && at.active) walk.load(a.carries, row, walk.dh);
  for (;; chunk = Chunk(a.in, --row)) {
    walk.chunk(chunk, warp);
    if (row == earliest) break;
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
  const int64_t blocks = divide_up(a.in.d_inner, kWarps * Shared::kChannels);
  const Shape shape = {blocks, a.tokens, 2, int64_t{Shared::kPadded}};
  const Tensor dBC = device.empty(DType::f32, shape);
  a.dBC = dBC.data<float>();
  const auto kernel = active ? backward_kernel<T, kLanes, kStates, true>
                             : backward_kernel<T, kLanes, kStates, false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        name_of(args.kOp));
  launch(device, name_of(args.kOp), kernel, grid_of(parts, blocks), kThreads, kBytes, a);
  sum_blocks(device, args, dBC);
}

}  // namespace

void scan::sum_blocks(Device& device, const ScanBackward& args, const Tensor& dBC) {
  const int64_t blocks = dBC.dim(0), tokens = dBC.dim(1), padded = dBC.dim(3);
  with_type(args.dB.dtype(), [&](auto element) {
    using T = decltype(element);
    launch(device, name_of(args.kOp), sum_blocks_kernel<T>,
           grid_of(divide_up(tokens * 2 * padded, 256)), 256, 0, dBC.data<float>(), blocks, tokens,
           static_cast<int>(padded), static_cast<int>(args.in.A.dim(1)), Rows<T>(args.dB),
           Rows<T>(args.dC));
  });
}

void selective_scan_backward(Device& device, const ScanBackward& args) {
  const int64_t d_inner = args.in.A.dim(0), d_state = args.in.A.dim(1);
  const int64_t n_seqs = args.in.seqs.count();
  if (n_seqs == 0 || d_inner == 0) return;
  TapViews views(device);
  const bool active = any_active_backward(args.taps);
  const Taps taps = view_taps(views, args.taps, d_inner, d_state);
  // One block a multiprocessor, but for long chunks: those that end early make room for others.
  constexpr int64_t kLongChunk = 2048;
  const int64_t chunk =
      std::min(chunk_for(args.in, 1), std::max(chunk_for(args.in, 3), kLongChunk));
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
    const Backward<T> a = {
        .in = inputs_of<T>(args.in, factors, chunk, {args.checkpoints}, {args.dout}),
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
    if (!active && d_state <= kWideStates && backward_wide(device, args, a, parts)) return;
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

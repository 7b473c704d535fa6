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

template <int kLanes, int kStates, bool kTaps>
struct Walk {
  using Shared = Layout<kLanes, kStates>;
  // Of the loops over a tile; with taps nothing is gained by it.
  static constexpr int kUnroll = kTaps ? 1 : kTile, kUnrollStates = kTaps ? 1 : kStates;

  const Backward& a;
  const Lane<kLanes, kStates>& at;
  typename Shared::Block& block;
  typename Shared::Warp& shared;
  float A2[kStates], dh[kStates] = {}, dA[kStates] = {};
  float dD = 0, dbias = 0, bias, skip;
  int stage = 0;  // which of the block's holds the tile at hand

  __device__ Walk(const Backward& args, const Lane<kLanes, kStates>& lane,
                  typename Shared::Block& memory, int warp)
      : a(args), at(lane), block(memory), shared(memory.warps[warp]) {
    load_A(a.in, at, A2);
    bias = a.in.dt_bias[at.e];
    skip = a.in.D[at.e];
  }

  __device__ void load(const float* table, int64_t row, float (&states)[kStates]) const {
    load_states(table + state_row(a.in, row, at.e), at.first_state, a.in.d_state, a.in.vectors,
                states);
  }
  __device__ void store(float* table, int64_t row, const float (&states)[kStates]) const {
    if (!at.active) return;
    store_states(table + state_row(a.in, row, at.e), at.first_state, a.in.d_state, a.in.vectors,
                 states);
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

  // Copies a tile's factors, and the lane's own tokens of it, into shared memory.
  __device__ void fetch(const Chunk& chunk, int tile) {
    const int last = static_cast<int>(chunk.end - chunk.begin) - 1;
    block.stages[tile % 2].fetch(a.in, chunk.begin, tile * kTile, last);
    const Tile from(a, chunk.begin + tile * kTile, chunk.end, at.e);
    auto& own = block.own[tile % 2];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int t = min(i * kGroup + at.g % kGroup, from.last);
      __pipeline_memcpy_async(&own[0][i][threadIdx.x], &from.x[t], sizeof(float));
      __pipeline_memcpy_async(&own[1][i][threadIdx.x], &from.dt_raw[t], sizeof(float));
      __pipeline_memcpy_async(&own[2][i][threadIdx.x], &from.z[t], sizeof(float));
      __pipeline_memcpy_async(&own[3][i][threadIdx.x], &from.dout[t], sizeof(float));
    }
    __pipeline_commit();
  }

  __device__ Own own_of(int i) const {
    const auto& own = block.own[stage];
    return {own[0][i][threadIdx.x], own[1][i][threadIdx.x], own[2][i][threadIdx.x],
            own[3][i][threadIdx.x]};
  }
  __device__ bool is_real(const Tile& tile, int place) const {
    return place <= tile.last && at.active;
  }

  // Step 1. Tokens that are not there take steps of 0 and have no gradient.
  __device__ void steps(const Tile& tile) {
#pragma unroll kUnroll
    for (int i = 0; i < kGroups; ++i) {
      const int place = i * kGroup + at.g % kGroup;
      const int64_t t = tile.begin + place;
      const Own own = own_of(i);
      float dt = 0, dtx = 0, dy = 0;
      if (is_real(tile, place)) {
        const float dt_pre = through(ScanPoint::dt_pre, own.dt_raw + bias, t);
        dt = through(ScanPoint::dt, fast_softplus(dt_pre), t);
        const float gate = through(ScanPoint::gate, own.z * fast_sigmoid(own.z), t);
        dy = back(ScanPoint::ssm_out, own.dout * gate, t);
        dtx = dt * own.x;
        dD = fmaf(dy, own.x, dD);
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
  __device__ void states_again(const Tile& tile, float (&h)[kStates],
                               float (&h_before)[kTile][kStates]) {
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
        float B[kStates], x = 0;
        load_factors(staged.B[place], at.first_state, B);
        const bool real = is_real(tile, place);
        if constexpr (kTaps) x = real ? a.in.x(t, at.e) : 0.0f;
#pragma unroll kUnrollStates
        for (int n = 0; n < kStates; ++n) {
          h_before[place][n] = h[n];
          h[n] = state_after(h[n], real, t, n, dts[j], dtxs[j], x, B[n]);
        }
      }
    }
  }

  __device__ bool is_tapped(bool real, int n) const {
    return kTaps && real && at.first_state + n < a.in.d_state;
  }

  __device__ float state_after(float h, bool real, int64_t t, int n, float dt, float dtx, float x,
                               float B) const {
    float decay = exp2_fast(dt * A2[n]), write = dtx * B;
    if (!is_tapped(real, n)) return fmaf(decay, h, write);
    const int state = at.first_state + n;
    const float B_bar = through(ScanPoint::B_bar, dt * B, t, state);
    if (B_bar != dt * B) write = B_bar * x;
    decay = through(ScanPoint::decay, decay, t, state);
    write = through(ScanPoint::write, write, t, state);
    return through(ScanPoint::h, fmaf(decay, h, write), t, state);
  }
  __device__ float read_of(float h, bool real, int64_t t, int n) const {
    return is_tapped(real, n) ? through(ScanPoint::readout_h, h, t, at.first_state + n) : h;
  }

  // A state at a token, backwards. Adds to dx and to ddt what the token gets from it: in the order
  // (dh B, dexponent A) where nothing is edited, so that x and dt are multiplied once a token.
  __device__ void state_back(bool real, int64_t t, int n, float dt, float dtx, float dy, float x,
                             float B, float C, float before, float after, float& to_C, float& to_B,
                             float (&sums)[3]) {
    const float decay = exp2_fast(dt * A2[n]);
    float kept = decay, dexponent;
    if (is_tapped(real, n)) {
      const int state = at.first_state + n;
      to_C = dy * through(ScanPoint::readout_h, after, t, state);
      const float dread = back(ScanPoint::readout_h, dy * C, t, state);
      const float plain = a.taps.edited ? dh[n] + dread : fmaf(dy, C, dh[n]);
      dh[n] = back(ScanPoint::h, plain, t, state);
      const float dwrite = back(ScanPoint::write, dh[n], t, state);
      const float dB_bar = back(ScanPoint::B_bar, dwrite * x, t, state);
      const float ddecay = back(ScanPoint::decay, dh[n] * before, t, state);
      kept = through(ScanPoint::decay, decay, t, state);
      if (a.taps.edited) {
        to_B = dB_bar * dt;
        dexponent = ddecay * decay;
        sums[0] = fmaf(dwrite, through(ScanPoint::B_bar, dt * B, t, state), sums[0]);
        sums[2] = fmaf(dB_bar, B, sums[2]);
      } else {
        to_B = dwrite * dtx;
        dexponent = dh[n] * (decay * before);
        sums[0] = fmaf(dwrite, B, sums[0]);
      }
    } else {
      to_C = dy * after;
      dh[n] = fmaf(dy, C, dh[n]);
      to_B = dh[n] * dtx;
      dexponent = dh[n] * (decay * before);
      sums[0] = fmaf(dh[n], B, sums[0]);
    }
    sums[1] = fmaf(dexponent, A2[n], sums[1]);
    dA[n] = fmaf(dexponent, dt, dA[n]);
    dh[n] = dh[n] * kept;
  }

  // Step 3, for one group of four tokens.
  __device__ void group_back(const Tile& tile, int i, const float (&h)[kStates],
                             const float (&h_before)[kTile][kStates], int warp) {
    const auto& staged = block.stages[stage];
    float dx_sum[kGroup] = {}, ddt_sum[kGroup] = {}, dB_bar_sum[kGroup] = {};
    float dts[kGroup], dtxs[kGroup], dys[kGroup], y[kGroup] = {};
    load_four(&shared.dt[at.c][i * kGroup], dts);
    load_four(&shared.dtx[at.c][i * kGroup], dtxs);
    load_four(&shared.dy[at.c][i * kGroup], dys);
#pragma unroll kUnroll
    for (int j = kGroup - 1; j >= 0; --j) {
      const int place = i * kGroup + j;
      const int64_t t = tile.begin + place;
      const bool real = is_real(tile, place);
      float B[kStates], C[kStates], to_C[kStates], to_B[kStates];
      load_factors(staged.B[place], at.first_state, B);
      load_factors(staged.C[place], at.first_state, C);
      const float dt = dts[j], dtx = dtxs[j];
      float dy = dys[j], x = 0, sums[3] = {};
      if constexpr (kTaps) {
        dy = real ? back(ScanPoint::y, dy, t) : 0.0f;
        x = real ? a.in.x(t, at.e) : 0.0f;
      }
#pragma unroll kUnrollStates
      for (int n = 0; n < kStates; ++n) {
        const float after = place + 1 < kTile ? h_before[(place + 1) % kTile][n] : h[n];
        y[j] = fmaf(C[n], read_of(after, real, t, n), y[j]);
        state_back(real, t, n, dt, dtx, dy, x, B[n], C[n], h_before[place][n], after, to_C[n],
                   to_B[n], sums);
      }
      dx_sum[j] = sums[0];
      ddt_sum[j] = sums[1];
      dB_bar_sum[j] = sums[2];
      float* given = &shared.given[0][j][(at.c * kLanes + at.g) * kStates];
      store_states(given, 0, kStates, true, to_C);
      store_states(given + kGroup * Shared::kToken, 0, kStates, true, to_B);
    }
    __syncwarp();
    sum_channels(block.sums[warp][i % Shared::kSummedGroups]);
    const float dx = sum_lanes<kLanes>(dx_sum, at.lane), ddt = sum_lanes<kLanes>(ddt_sum, at.lane);
    float dB_bars = 0;
    if constexpr (kTaps) dB_bars = sum_lanes<kLanes>(dB_bar_sum, at.lane);
    own_back(tile, i, sum_lanes<kLanes>(y, at.lane), dx, ddt * kLn2, dB_bars);
    __syncwarp();
  }

  __device__ void own_back(const Tile& tile, int i, float y, float dx, float ddt, float dB_bars) {
    const int place = i * kGroup + at.g % kGroup;
    if (!is_real(tile, place)) return;
    const int64_t t = tile.begin + place;
    const Own own = own_of(i);
    const float dt = shared.dt[at.c][place], dy = shared.dy[at.c][place];
    const float dt_pre = through(ScanPoint::dt_pre, own.dt_raw + bias, t);
    const bool edited = kTaps && a.taps.edited;
    const float to_x = edited ? fmaf(dy, skip, dx) : fmaf(dy, skip, dx * dt);
    const float to_dt = edited ? ddt + dB_bars : fmaf(dx, own.x, ddt);
    const float slope = dt_pre > 20.0f ? 1.0f : fast_sigmoid(dt_pre);
    const float ddt_pre = back(ScanPoint::dt_pre, back(ScanPoint::dt, to_dt, t) * slope, t);
    const float s = fast_sigmoid(own.z);
    const float ssm_out =
        through(ScanPoint::ssm_out, fmaf(skip, own.x, through(ScanPoint::y, y, t)), t);
    const float dgate = back(ScanPoint::gate, own.dout * ssm_out, t);
    dbias += ddt_pre;
    if (at.g >= kGroup) return;
    tile.dx[place] = to_x;
    tile.ddt_raw[place] = ddt_pre;
    tile.dz[place] = dgate * (s * (1.0f + own.z * (1.0f - s)));
  }

  // The warp's channels, summed for C and B of four tokens: four states a lane at a time.
  __device__ void sum_channels(float (&sums)[2][kGroup][Shared::kPadded]) {
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
      *reinterpret_cast<float4*>(&sums[which][j][four * 4]) = sum;
    }
  }

  // The block's warps, summed, into the place of its channels among the blocks'.
  __device__ void sum_warps(int64_t begin, int last, int first_group) {
    constexpr int kFours = Shared::kPadded / 4;
    constexpr int kCount = Shared::kSummedGroups * 2 * kGroup * kFours;
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x); k < kCount; k += Shared::kThreads) {
      const int four = k % kFours, j = k / kFours % kGroup, which = k / kFours / kGroup % 2,
                i = k / kFours / kGroup / 2;
      const int place = (first_group + i) * kGroup + j;
      float4 sum = {0, 0, 0, 0};
      for (int w = 0; w < Shared::kBlockWarps; ++w) {
        const float4 v = *reinterpret_cast<const float4*>(&block.sums[w][i][which][j][four * 4]);
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
      if (place > last) continue;
      float* into = a.dBC + ((blockIdx.y * a.tokens + begin + place) * 2 + which) * Shared::kPadded;
      *reinterpret_cast<float4*>(into + four * 4) = sum;
    }
    __syncthreads();
  }

  // The tokens from a checkpoint on.
  __device__ void run(const Tile& tile, int64_t checkpoint, int warp) {
    float h[kStates], h_before[kTile][kStates];
    load(a.checkpoints, checkpoint, h);
    steps(tile);
    states_again(tile, h, h_before);
#pragma unroll kUnroll
    for (int i = kGroups - 1; i >= 0; --i) {
      group_back(tile, i, h, h_before, warp);
      if (i % Shared::kSummedGroups == 0) sum_warps(tile.begin, tile.last, i);
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
      run(Tile(a, chunk.begin + i * kTile, chunk.end, at.e), first + i, warp);
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
template <int kLanes, int kStates, bool kTaps>
__global__ void __launch_bounds__((Layout<kLanes, kStates>::kThreads),
                                  (kTaps || kStates > 4 ? 1 : 3))
    backward_kernel(const __grid_constant__ Backward a) {
  using Shared = Layout<kLanes, kStates>;
  extern __shared__ float4 memory[];
  auto& block = *reinterpret_cast<typename Shared::Block*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first_channel =
      (blockIdx.y * int64_t{Shared::kBlockWarps} + warp) * Shared::kChannels;
  const Lane<kLanes, kStates> at(a.in, first_channel);
  Walk<kLanes, kStates, kTaps> walk(a, at, block, warp);
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
__global__ void sum_blocks_kernel(const float* dBC, int64_t blocks, int64_t tokens, int padded,
                                  int d_state, Rows<float> dB, Rows<float> dC) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, size = tokens * 2 * padded;
  if (i >= size) return;
  const int n = static_cast<int>(i % padded);
  if (n >= d_state) return;
  float sum = 0;
  for (int64_t block = 0; block < blocks; ++block) sum += dBC[block * size + i];
  const int64_t t = i / padded / 2;
  (i / padded % 2 == 0 ? dC : dB)(t, n) = sum;
}

template <int kLanes, int kStates>
void run(Device& device, const ScanBackward& args, Backward a, bool active, int64_t parts) {
  using Shared = Layout<kLanes, kStates>;
  constexpr int kBytes = sizeof(typename Shared::Block);
  const int64_t blocks = divide_up(a.in.d_inner, Shared::kBlockWarps * Shared::kChannels);
  const Tensor dBC = device.empty(DType::f32, {blocks, a.tokens, 2, Shared::kPadded});
  a.dBC = dBC.data<float>();
  const auto kernel =
      active ? backward_kernel<kLanes, kStates, true> : backward_kernel<kLanes, kStates, false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        name_of(args.kOp));
  launch(device, name_of(args.kOp), kernel, grid_of(parts, blocks), Shared::kThreads, kBytes, a);
  const int64_t sums = a.tokens * 2 * Shared::kPadded;
  launch(device, name_of(args.kOp), sum_blocks_kernel, grid_of(divide_up(sums, 256)), 256, 0, a.dBC,
         blocks, a.tokens, Shared::kPadded, a.in.d_state, Rows<float>(args.dB),
         Rows<float>(args.dC));
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
  const Backward a = {.in = inputs_of(args.in, factors, chunk, {args.checkpoints}),
                      .dout = Rows<const float>(args.dout),
                      .checkpoints = args.checkpoints.data<float>(),
                      .carries = carries.data<float>(),
                      .dx = Rows<float>(args.dx),
                      .ddt_raw = Rows<float>(args.ddt_raw),
                      .dz = Rows<float>(args.dz),
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
  add_parts(device, dA, parts, d_inner * d_state, args.dA.data<float>());
  add_parts(device, dD, parts, d_inner, args.dD.data<float>());
  add_parts(device, dbias, parts, d_inner, args.ddt_bias.data<float>());
  if (args.dpool) give_starts(device, args, starts);
}

}  // namespace elapse::cuda

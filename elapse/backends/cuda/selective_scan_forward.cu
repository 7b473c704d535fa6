// SPDX-License-Identifier: Apache-2.0
// The selective scan, forward; selective_scan.cuh says how work is laid out.
//
// Bound: of the instructions for a state at a token, five are issued (dt A, exp2, write, h, y), of
// which exp2 holds its unit for the time of eight: 16 states with the three special functions of
// softplus and of the gate are 152 cycles of a quarter multiprocessor for 32 channels. On 132
// multiprocessors at 1.755 GHz that is 5.1 ps a (token, channel): 0.13 ms for (8, 2048, 1536).
// Memory, in float32: 16 bytes a (token, channel), and 4 for checkpoints: 0.13 ms at 3 TB/s.
// docs/cuda.md has what was measured.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/selective_scan_forward.cuh"

namespace elapse::cuda {
namespace {

using namespace scan;

template <class T, int kLanes, int kStates>
struct Shared {
  using Staged = Stage<T, kLanes * kStates>;
  static constexpr int kChannels = 32 / kLanes;
  static constexpr int kCheckpointEvery = static_cast<int>(ScanForward::kCheckpointEvery);
  static constexpr int kTile =
      Staged::kTokens < kCheckpointEvery ? Staged::kTokens : kCheckpointEvery;

  static constexpr int kPadded = kLanes * kStates;
  using Own = ChannelStage<T, 3, Staged::kTokens, kWarps * kChannels>;

  Staged stages[2];
  Own own[2];  // x, dt_raw, z
  // Rows apart in the banks.
  alignas(16) float dt[kWarps][kChannels][kTile + 4];
  alignas(16) float dtx[kWarps][kChannels][kTile + 4];
};

// A tile, where a lane finds it, and where its results go.
template <class T, int kLanes, int kStates>
struct Tile {
  using Memory = Shared<T, kLanes, kStates>;

  int64_t begin;  // token
  int limit;      // the last place that has one; below 0 for a lane without a channel
  const T (*B)[Memory::kPadded];
  const T (*C)[Memory::kPadded];
  float* dt;  // of the lane's channel, by place; so too
  float* dtx;
  Column<T> out;

  __device__ Tile(const Forward<T>& a, const Lane<kLanes, kStates>& at, Memory& shared, int stage,
                  int place, int64_t token, int last)
      : begin(token),
        limit(at.active ? last : -1),
        B(&shared.stages[stage].B[place]),
        C(&shared.stages[stage].C[place]),
        dt(shared.dt[threadIdx.x / 32][at.c]),
        dtx(shared.dtx[threadIdx.x / 32][at.c]),
        out(a.out, token, at.e),
        own_(shared.own[stage]),
        first_(place),
        channel_(static_cast<int>(threadIdx.x) / 32 * Memory::kChannels + at.c) {}

  __device__ float x(int place) const { return own(0, place); }
  __device__ float dt_raw(int place) const { return own(1, place); }
  __device__ float z(int place) const { return own(2, place); }

 private:
  __device__ float own(int array, int place) const {
    return static_cast<float>(own_.of[array][first_ + place][channel_]);
  }

  const typename Memory::Own& own_;
  int first_, channel_;
};

// A warp's walk.
template <class T, int kLanes, int kStates, bool kTaps>
struct Walk {
  using At = Lane<kLanes, kStates>;
  using Tile = cuda::Tile<T, kLanes, kStates>;

  const Forward<T>& a;
  const At& at;
  float A2[kStates], h[kStates] = {};
  float bias, skip;
  static constexpr int kUnroll = kTaps ? 1 : kGroup, kUnrollStates = kTaps ? 1 : kStates;
  bool changed = false;  // by an edit, some state so far

  __device__ Walk(const Forward<T>& args, const At& lane) : a(args), at(lane) {
    load_A(a.in, at, A2);
    bias = a.in.dt_bias[at.e];
    skip = a.in.D[at.e];
  }

  __device__ void start(const Chunk& chunk) {
    const int64_t slot = a.in.start_slots[chunk.s];
    if (a.carries != nullptr) load(a.carries, chunk.row);
    else if (slot >= 0) load(a.pool, slot);
  }
  __device__ void end(const Chunk& chunk) {
    const int64_t slot = a.in.end_slots[chunk.s];
    if (slot >= 0) store(a.pool, slot);
  }
  __device__ void load(const float* table, int64_t row) {
    load_states(table + state_row(a.in, row, at.e), at, a.in.d_state, a.in.vectors, h);
  }
  __device__ void store(float* table, int64_t row) const {
    if (!at.active) return;
    store_states(table + state_row(a.in, row, at.e), at, a.in.d_state, a.in.vectors, h);
  }

  __device__ float tapped(ScanPoint p, float v, int64_t t, int n = 0) {
    bool ignored = false;  // what no later state depends on
    if constexpr (kTaps) {
      return a.taps.through(p, v, t, at.e, n, p >= ScanPoint::readout_h ? ignored : changed);
    }
    return v;
  }

  // One state at one token; adds to y.
  __device__ void advance(int64_t t, bool real, int i, float dt, float x, float dtx, float B,
                          float C, float& y) {
    const float decay = exp2_fast(dt * A2[i]), write = dtx * B;
    if constexpr (kTaps) {
      const int n = at.state(i);
      if (!real || n >= a.in.d_state) return;
      const float B_bar = tapped(ScanPoint::B_bar, dt * B, t, n);
      const float plain = B_bar == dt * B ? write : B_bar * x;
      const float d = tapped(ScanPoint::decay, decay, t, n);
      const float w = tapped(ScanPoint::write, plain, t, n);
      h[i] = tapped(ScanPoint::h, fmaf(d, h[i], w), t, n);
      y = fmaf(C, tapped(ScanPoint::readout_h, h[i], t, n), y);
    } else {
      h[i] = fmaf(decay, h[i], write);
      y = fmaf(C, h[i], y);
    }
  }

  // What a lane has of its own tokens of a tile.
  static constexpr int kOwn = Tile::Memory::kTile / kGroup;
  struct Own {
    float x[kOwn], dtx[kOwn], gate[kOwn];
  };

  // Once a token; dt, and what else they need, goes to all lanes of the channel. Values are read
  // before any is written, so that their chains run side by side.
  __device__ void steps(const Tile& tile, Own& own) {
    float dt[kOwn], z[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int place = k * kGroup + at.own;
      dt[k] = tile.dt_raw(place) + bias;
      own.x[k] = tile.x(place);
      z[k] = tile.z(place);
    }
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int place = k * kGroup + at.own;
      const bool real = place <= tile.limit;
      dt[k] = real ? step_size(dt[k], tile.begin + place) : 0.0f;
      own.dtx[k] = real ? dt[k] * own.x[k] : 0.0f;
      own.gate[k] = z[k] * fast_sigmoid(z[k]);
    }
    if (at.g < kGroup) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        tile.dt[k * kGroup + at.own] = dt[k];
        tile.dtx[k * kGroup + at.own] = own.dtx[k];
      }
    }
    __syncwarp();
  }

  // The four tokens from place i on.
  __device__ void walk(const Tile& tile, int i, const Own& mine) {
    const float4 dts = *reinterpret_cast<const float4*>(&tile.dt[i]);
    const float dt_of[kGroup] = {dts.x, dts.y, dts.z, dts.w};
    const float4 dtxs = *reinterpret_cast<const float4*>(&tile.dtx[i]);
    const float dtx_of[kGroup] = {dtxs.x, dtxs.y, dtxs.z, dtxs.w};
    float sums[kGroup] = {};
#pragma unroll kUnroll
    for (int j = 0; j < kGroup; ++j) {
      const int64_t t = tile.begin + i + j;
      const bool exists = i + j <= tile.limit;
      float x = 0, B[kStates], C[kStates];
      if constexpr (kTaps) x = exists ? static_cast<float>(a.in.x(t, at.e)) : 0.0f;
      load_factors(tile.B[i + j], at, B);
      load_factors(tile.C[i + j], at, C);
#pragma unroll kUnrollStates
      for (int n = 0; n < kStates; ++n) {
        advance(t, exists, n, dt_of[j], x, dtx_of[j], B[n], C[n], sums[j]);
      }
    }
    const float y = sum_lanes<kLanes>(sums, at.lane);
    const int own = i + at.own;
    if (kTaps && own > tile.limit) return;
    const T out =
        static_cast<T>(finish(tile.begin + own, mine.x[i / kGroup], mine.gate[i / kGroup], y));
    if (own <= tile.limit && at.g < kGroup) tile.out[own] = out;
  }

  __device__ float step_size(float raw, int64_t t) {
    return tapped(ScanPoint::dt, fast_softplus(tapped(ScanPoint::dt_pre, raw, t)), t);
  }

  __device__ float finish(int64_t t, float x, float gate, float sum) {
    const float y = tapped(ScanPoint::y, sum, t);
    const float ssm_out = tapped(ScanPoint::ssm_out, fmaf(skip, x, y), t);
    return ssm_out * tapped(ScanPoint::gate, gate, t);
  }
};

// Copies run a stage ahead of the walk.
template <class T, int kLanes, int kStates, bool kTaps>
__device__ void walk_chunk(Walk<T, kLanes, kStates, kTaps>& walk, const Chunk& chunk,
                           Shared<T, kLanes, kStates>& shared) {
  using Memory = Shared<T, kLanes, kStates>;
  constexpr int kStage = Memory::Staged::kTokens, kTile = Memory::kTile;
  const Forward<T>& a = walk.a;
  const int last = static_cast<int>(chunk.end - chunk.begin) - 1;
  if (last < 0) return;
  const int64_t first_channel = blockIdx.y * int64_t{kWarps * Memory::kChannels};
  const auto fetch = [&](int stage) {
    auto& own = shared.own[stage % 2];
    const int first = stage * kStage;
    own.fetch(0, a.in.x, a.in, first_channel, chunk.begin, first, last);
    own.fetch(1, a.in.dt_raw, a.in, first_channel, chunk.begin, first, last);
    own.fetch(2, a.in.z, a.in, first_channel, chunk.begin, first, last);
    shared.stages[stage % 2].fetch(a.in, chunk.begin, first, last);
  };
  int64_t checkpoint = checkpoint_begin(chunk.first, chunk.s) +
                       (chunk.begin - chunk.first) / ScanForward::kCheckpointEvery;
  fetch(0);
  for (int begin = 0, stage = 0; begin <= last; begin += kStage, ++stage) {
    fetch(stage + 1);
    __pipeline_wait_prior(1);
    __syncthreads();
    for (int tile = 0; tile < kStage && begin + tile <= last; tile += kTile) {
      if (a.checkpoints != nullptr && (begin + tile) % ScanForward::kCheckpointEvery == 0) {
        walk.store(a.checkpoints, checkpoint++);
      }
      const Tile<T, kLanes, kStates> at_hand(a, walk.at, shared, stage % 2, tile,
                                             chunk.begin + begin + tile, last - begin - tile);
      typename Walk<T, kLanes, kStates, kTaps>::Own own;
      walk.steps(at_hand, own);
#pragma unroll
      for (int i = 0; i < kTile; i += kGroup) walk.walk(at_hand, i, own);
      __syncwarp();
    }
    __syncthreads();
  }
  __pipeline_wait_prior(0);
}

template <class T, int kLanes, int kStates, bool kTaps>
__global__ void __launch_bounds__(kThreads, kTaps || kStates > 4 ? 1 : 3)
    forward_kernel(const __grid_constant__ Forward<T> a) {
  constexpr int kChannels = 32 / kLanes;
  __shared__ Shared<T, kLanes, kStates> shared;
  const Chunk chunk(a.in, blockIdx.x);
  if (!chunk.exists()) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Lane<kLanes, kStates> at(a.in, (blockIdx.y * int64_t{kWarps} + warp) * kChannels);
  Walk<T, kLanes, kStates, kTaps> walk(a, at);
  walk.start(chunk);
  walk_chunk(walk, chunk, shared);
  if (chunk.is_last()) walk.end(chunk);
}

// With edits: a sequence's chunks one after the other. A chunk starts from the carry as ever,
// unless an edit has changed something by then.
template <class T, int kLanes, int kStates>
__global__ void __launch_bounds__(kThreads) edited_kernel(const __grid_constant__ Forward<T> a) {
  constexpr int kChannels = 32 / kLanes;
  __shared__ Shared<T, kLanes, kStates> shared;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t s = blockIdx.x;
  const Lane<kLanes, kStates> at(a.in, (blockIdx.y * int64_t{kWarps} + warp) * kChannels);
  Walk<T, kLanes, kStates, true> walk(a, at);
  for (int64_t row = first_row(a.in, s);; ++row) {
    const Chunk chunk(a.in, row);
    // All lanes of a channel: an edit of dt, seen by one, changes the states of all.
    bool changed = walk.changed;
    for (int step = 1; step < kLanes; step *= 2) {
      changed = __shfl_xor_sync(~0u, changed, step) || changed;
    }
    walk.changed = changed;
    if (!changed) walk.start(chunk);
    walk_chunk(walk, chunk, shared);
    if (chunk.is_last()) return walk.end(chunk);
  }
}

template <int kLanes, int kStates, class T>
void run(Device& device, const Forward<T>& a, bool active, int64_t rows) {
  const int64_t across = divide_up(a.in.d_inner, kWarps * (32 / kLanes));
  const auto start = [&](auto kernel, int64_t count) {
    launch(device, name_of(ScanForward::kOp), kernel, grid_of(count, across), kThreads, 0, a);
  };
  if (a.taps.edited) start(edited_kernel<T, kLanes, kStates>, a.in.n_seqs);
  else if (active) start(forward_kernel<T, kLanes, kStates, true>, rows);
  else start(forward_kernel<T, kLanes, kStates, false>, rows);
}

}  // namespace

void selective_scan_forward(Device& device, const ScanForward& args) {
  const int64_t d_inner = args.in.A.dim(0), d_state = args.in.A.dim(1);
  if (args.in.seqs.count() == 0 || d_inner == 0) return;
  if (step_forward(device, args)) return;
  const int64_t chunk = chunk_for(args.in, d_state <= kWideStates ? 2 : 1);
  const Factors factors(device, args.in);
  Tensor carries;
  if (args.in.seqs.max_len > chunk) {
    carries = carry_forward(device, args.in, factors, args.pool, chunk);
  }
  TapViews views(device);
  const Taps taps = view_taps(views, args.taps, d_inner, d_state);
  with_type(args.in.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Forward<T> a = {
        .in = inputs_of<T>(args.in, factors, chunk, {args.pool, args.checkpoints}),
        .carries = carries ? carries.data<float>() : nullptr,
        .pool = args.pool ? args.pool.data<float>() : nullptr,
        .checkpoints = args.checkpoints ? args.checkpoints.data<float>() : nullptr,
        .out = Rows<T>(args.out),
        .taps = taps};
    const bool active = any_active_forward(args.taps);
    // Of a few tokens, as in decoding, half a block would have nothing to help with.
    const bool wide = !active && d_state <= kWideStates && args.in.seqs.max_len > kTile;
    if (wide && forward_wide(device, args.in, a)) return;
    with_layout(d_state, [&](auto lanes, auto states) {
      run<decltype(lanes)::value, decltype(states)::value>(device, a, active,
                                                           chunk_rows(args.in, chunk));
    });
  });
}

}  // namespace elapse::cuda

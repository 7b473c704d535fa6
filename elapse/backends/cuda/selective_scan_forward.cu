// SPDX-License-Identifier: Apache-2.0
// The selective scan, forward; selective_scan.cuh says how work is laid out.
//
// Bound: of the instructions for a state at a token, five are issued (dt A, exp2, write, h, y), of
// which exp2 holds its unit for the time of eight: 16 states with the three special functions of
// softplus and of the gate are 152 cycles of a quarter multiprocessor for 32 channels. On 132
// multiprocessors at 1.755 GHz that is 5.1 ps a (token, channel): 0.13 ms for (8, 2048, 1536).
// Memory: 16 bytes a (token, channel), and 4 for checkpoints: 0.13 ms at 3 TB/s. docs/cuda.md has
// what was measured.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/selective_scan.cuh"

namespace elapse::cuda {
namespace {

using namespace scan;

constexpr int kThreads = 32 * kWarps;
constexpr int64_t kWarpsAtATime = 132 * 16;

struct Forward {
  Inputs in;
  const float* carries;  // what chunks start from; or null: a chunk is a sequence
  float* pool;
  float* checkpoints;
  Rows<float> out;
  Taps taps;
};

// What a lane holds of its own of four tokens before they are walked.
struct Own {
  float x, dt_raw, z;
};

// Where a lane reads and writes a chunk's rows.
struct Columns {
  Column<const float> x, dt_raw, z;
  Column<float> out;
  int last;  // token

  template <class Lane>
  __device__ Columns(const Forward& a, const Chunk& chunk, const Lane& at)
      : x(a.in.x, chunk.begin, at.e),
        dt_raw(a.in.dt_raw, chunk.begin, at.e),
        z(a.in.z, chunk.begin, at.e),
        out(a.out, chunk.begin, at.e),
        last(static_cast<int>(chunk.end - chunk.begin) - 1) {}

  // The last token stands for those beyond it.
  __device__ Own at(int i) const {
    i = min(i, last);
    return {x[i], dt_raw[i], z[i]};
  }
};

// A warp's walk.
template <int kLanes, int kStates, bool kTaps>
struct Walk {
  const Forward& a;
  const Lane<kLanes, kStates>& at;
  float A2[kStates], h[kStates] = {};
  float bias, skip;
  static constexpr int kUnroll = kTaps ? 1 : kGroup, kUnrollStates = kTaps ? 1 : kStates;
  bool changed = false;  // by an edit, some state so far

  __device__ Walk(const Forward& args, const Lane<kLanes, kStates>& lane) : a(args), at(lane) {
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
    load_states(table + state_row(a.in, row, at.e), at.first_state, a.in.d_state, a.in.vectors, h);
  }
  __device__ void store(float* table, int64_t row) const {
    if (!at.active) return;
    store_states(table + state_row(a.in, row, at.e), at.first_state, a.in.d_state, a.in.vectors, h);
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
      const int n = at.first_state + i;
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

  // The lane's own step of four tokens, and dt x, for all lanes of its channel.
  __device__ void pass_step(const Chunk& chunk, const Columns& rows, int own, const Own& v,
                            float4* values) {
    const bool real = own <= rows.last;
    const float dt = step_size(v.dt_raw + bias, chunk.begin + own, real);
    const float dtx = dt * v.x;
    if (at.g < kGroup) {
      reinterpret_cast<float*>(values)[at.g] = real ? dt : 0.0f;
      reinterpret_cast<float*>(values + 1)[at.g] = real ? dtx : 0.0f;
    }
  }

  // The four tokens from place i on, whose B and C the stage holds from its place j0 on.
  template <class Staged>
  __device__ void walk(const Chunk& chunk, const Columns& rows, int i, const Own& v,
                       const Staged& staged, int j0, const float4* values) {
    const float4 dts = values[0], dtxs = values[1];
    const float dt_of[kGroup] = {dts.x, dts.y, dts.z, dts.w};
    const float dtx_of[kGroup] = {dtxs.x, dtxs.y, dtxs.z, dtxs.w};
    const float gate = v.z * fast_sigmoid(v.z);
    float y[kGroup] = {};
#pragma unroll kUnroll
    for (int j = 0; j < kGroup; ++j) {
      const int64_t t = chunk.begin + i + j;
      const bool exists = i + j <= rows.last && at.active;
      float x = 0, B[kStates], C[kStates];
      if constexpr (kTaps) x = exists ? a.in.x(t, at.e) : 0.0f;
      load_factors(staged.B[j0 + j], at.first_state, B);
      load_factors(staged.C[j0 + j], at.first_state, C);
#pragma unroll kUnrollStates
      for (int n = 0; n < kStates; ++n) {
        advance(t, exists, n, dt_of[j], x, dtx_of[j], B[n], C[n], y[j]);
      }
    }
    const float sum = sum_lanes<kLanes>(y, at.lane);
    const int own = i + at.g % kGroup;
    if (own <= rows.last && at.active && at.g < kGroup) {
      rows.out[own] = finish(chunk.begin + own, v.x, gate, sum);
    }
  }

  __device__ float step_size(float raw, int64_t t, bool real) {
    if (kTaps && !(real && at.active)) return 0;
    return tapped(ScanPoint::dt, fast_softplus(tapped(ScanPoint::dt_pre, raw, t)), t);
  }

  __device__ float finish(int64_t t, float x, float gate, float sum) {
    const float y = tapped(ScanPoint::y, sum, t);
    const float ssm_out = tapped(ScanPoint::ssm_out, fmaf(skip, x, y), t);
    return ssm_out * tapped(ScanPoint::gate, gate, t);
  }
};

template <int kLanes, int kStates>
struct Shared {
  Stage<kLanes * kStates> stages[2];
  float4 values[kWarps][2][32 / kLanes][2];  // dt and dt x of four tokens
};

// Loads run a tile of 16 tokens ahead of the walk, steps one group: nothing in a group waits for
// them.
template <int kLanes, int kStates, bool kTaps>
__device__ void walk_chunk(Walk<kLanes, kStates, kTaps>& walk, const Chunk& chunk,
                           Shared<kLanes, kStates>& shared) {
  using Staged = Stage<kLanes * kStates>;
  constexpr int kTile = ScanForward::kCheckpointEvery;
  constexpr int kGroups = (Staged::kTokens < kTile ? Staged::kTokens : kTile) / kGroup;
  const Forward& a = walk.a;
  const Columns rows(a, chunk, walk.at);
  if (rows.last < 0) return;
  auto& values = shared.values[threadIdx.x / 32];
  const int c = walk.at.c, g = walk.at.g % kGroup;
  int64_t checkpoint = checkpoint_begin(chunk.first, chunk.s) + (chunk.begin - chunk.first) / kTile;
  Own now[kGroups], next[kGroups];
#pragma unroll
  for (int k = 0; k < kGroups; ++k) now[k] = rows.at(k * kGroup + g);
  walk.pass_step(chunk, rows, g, now[0], values[0][c]);
  shared.stages[0].fetch(a.in, chunk.begin, 0, rows.last);
  int group = 0;
  for (int begin = 0, stage = 0; begin <= rows.last; begin += Staged::kTokens, ++stage) {
    shared.stages[(stage + 1) % 2].fetch(a.in, chunk.begin, begin + Staged::kTokens, rows.last);
    __pipeline_wait_prior(1);
    __syncthreads();
    const Staged& staged = shared.stages[stage % 2];
    for (int tile = 0; tile < Staged::kTokens && begin + tile <= rows.last;
         tile += kGroups * kGroup) {
      if (a.checkpoints != nullptr && (begin + tile) % kTile == 0) {
        walk.store(a.checkpoints, checkpoint++);
      }
      const int ahead = begin + tile + kGroups * kGroup + g;
#pragma unroll
      for (int k = 0; k < kGroups; ++k) next[k] = rows.at(ahead + k * kGroup);
#pragma unroll
      for (int k = 0; k < kGroups; ++k, ++group) {
        const int j = tile + k * kGroup, i = begin + j;
        __syncwarp();
        walk.pass_step(chunk, rows, i + kGroup + g,
                       k + 1 < kGroups ? now[(k + 1) % kGroups] : next[0],
                       values[(group + 1) % 2][c]);
        walk.walk(chunk, rows, i, now[k], staged, j, values[group % 2][c]);
      }
#pragma unroll
      for (int k = 0; k < kGroups; ++k) now[k] = next[k];
    }
    __syncthreads();
  }
  __pipeline_wait_prior(0);
}

template <int kLanes, int kStates, bool kTaps>
__global__ void __launch_bounds__(kThreads, kTaps || kStates > 4 ? 1 : 4)
    forward_kernel(const __grid_constant__ Forward a) {
  constexpr int kChannels = 32 / kLanes;
  __shared__ Shared<kLanes, kStates> shared;
  const Chunk chunk(a.in, blockIdx.x);
  if (!chunk.exists()) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Lane<kLanes, kStates> at(a.in, (blockIdx.y * int64_t{kWarps} + warp) * kChannels);
  Walk<kLanes, kStates, kTaps> walk(a, at);
  walk.start(chunk);
  walk_chunk(walk, chunk, shared);
  if (chunk.is_last()) walk.end(chunk);
}

// With edits: a sequence's chunks one after the other. A chunk starts from the carry as ever,
// unless an edit has changed something by then.
template <int kLanes, int kStates>
__global__ void __launch_bounds__(kThreads) edited_kernel(const __grid_constant__ Forward a) {
  constexpr int kChannels = 32 / kLanes;
  __shared__ Shared<kLanes, kStates> shared;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t s = blockIdx.x;
  const Lane<kLanes, kStates> at(a.in, (blockIdx.y * int64_t{kWarps} + warp) * kChannels);
  Walk<kLanes, kStates, true> walk(a, at);
  for (int64_t row = a.in.cu[s] / a.in.chunk + s;; ++row) {
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

template <int kLanes, int kStates>
void run(Device& device, const Forward& a, bool active, int64_t rows) {
  const int64_t across = divide_up(a.in.d_inner, kWarps * (32 / kLanes));
  const auto start = [&](auto kernel, int64_t count) {
    launch(device, name_of(ScanForward::kOp), kernel, grid_of(count, across), kThreads, 0, a);
  };
  if (a.taps.edited) start(edited_kernel<kLanes, kStates>, a.in.n_seqs);
  else if (active) start(forward_kernel<kLanes, kStates, true>, rows);
  else start(forward_kernel<kLanes, kStates, false>, rows);
}

}  // namespace

void selective_scan_forward(Device& device, const ScanForward& args) {
  const int64_t d_inner = args.in.A.dim(0), d_state = args.in.A.dim(1);
  if (args.in.seqs.count() == 0 || d_inner == 0) return;
  const int64_t chunk = chunk_for(args.in, kWarpsAtATime);
  const Factors factors(device, args.in);
  Tensor carries;
  if (args.in.seqs.max_len > chunk) {
    carries = carry_forward(device, args.in, factors, args.pool, chunk);
  }
  TapViews views(device);
  const Forward a = {.in = inputs_of(args.in, factors, chunk, {args.pool, args.checkpoints}),
                     .carries = carries ? carries.data<float>() : nullptr,
                     .pool = args.pool ? args.pool.data<float>() : nullptr,
                     .checkpoints = args.checkpoints ? args.checkpoints.data<float>() : nullptr,
                     .out = Rows<float>(args.out),
                     .taps = view_taps(views, args.taps, d_inner, d_state)};
  with_layout(d_state, [&](auto lanes, auto states) {
    run<decltype(lanes)::value, decltype(states)::value>(device, a, any_active_forward(args.taps),
                                                         chunk_rows(args.in, chunk));
  });
}

}  // namespace elapse::cuda

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
#include "elapse/backends/cuda/selective_scan_products.cuh"

namespace elapse::cuda {
namespace {

using namespace scan;

constexpr int kThreads = 32 * kWarps;
constexpr int64_t kWarpsAtATime = 132 * 16;

template <class T>
struct Forward {
  Inputs<T> in;
  const float* carries;  // what chunks start from; or null: a chunk is a sequence
  float* pool;
  float* checkpoints;
  Rows<T> out;
  Taps taps;
};

// What a lane holds of its own of four tokens before they are walked.
struct Own {
  float x, dt_raw, z;
};

// Where a lane reads and writes a chunk's rows.
template <class T>
struct Columns {
  Column<const T> x, dt_raw, z;
  Column<T> out;
  int last;  // token

  template <class Lane>
  __device__ Columns(const Forward<T>& a, const Chunk& chunk, const Lane& at)
      : x(a.in.x, chunk.begin, at.e),
        dt_raw(a.in.dt_raw, chunk.begin, at.e),
        z(a.in.z, chunk.begin, at.e),
        out(a.out, chunk.begin, at.e),
        last(static_cast<int>(chunk.end - chunk.begin) - 1) {}

  // The last token stands for those beyond it.
  __device__ Own at(int i) const {
    i = min(i, last);
    return {static_cast<float>(x[i]), static_cast<float>(dt_raw[i]), static_cast<float>(z[i])};
  }
};

// A warp's walk.
template <class T, int kLanes, int kStates, bool kTaps>
struct Walk {
  using At = Lane<kLanes, kStates>;

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

  // One state at one token; returns what is read of it.
  __device__ float advance(int64_t t, bool real, int i, float dt, float x, float write,
                           const T* B) {
    const float decay = exp2_fast(dt * A2[i]);
    if constexpr (kTaps) {
      const int n = at.state(i);
      if (!real || n >= a.in.d_state) return h[i];
      const float plain_B_bar = dt * static_cast<float>(B[n]);
      const float B_bar = tapped(ScanPoint::B_bar, plain_B_bar, t, n);
      const float plain = B_bar == plain_B_bar ? write : B_bar * x;
      const float d = tapped(ScanPoint::decay, decay, t, n);
      const float w = tapped(ScanPoint::write, plain, t, n);
      h[i] = tapped(ScanPoint::h, fmaf(d, h[i], w), t, n);
      return tapped(ScanPoint::readout_h, h[i], t, n);
    } else {
      return h[i] = fmaf(decay, h[i], write);
    }
  }

  // The lane's own step of four tokens, for all lanes of its channel; returns dt x, which they get
  // too where the matrix unit does not take it from here.
  __device__ float pass_step(const Chunk& chunk, const Columns<T>& rows, int own, const Own& v,
                             float4* values) {
    const bool real = own <= rows.last;
    const float dt = step_size(v.dt_raw + bias, chunk.begin + own, real);
    const float dtx = real ? dt * v.x : 0.0f;
    if (at.g < kGroup) {
      reinterpret_cast<float*>(values)[at.own] = real ? dt : 0.0f;
      if constexpr (!At::kProducts) reinterpret_cast<float*>(values + 1)[at.own] = dtx;
    }
    return dtx;
  }

  // The four tokens from place i on, whose B and C the stage holds from its place j0 on. `v` and
  // `dtx` are the lane's own.
  template <class Staged>
  __device__ void walk(const Chunk& chunk, const Columns<T>& rows, int i, const Own& v, float dtx,
                       const Staged& staged, int j0, const float4* values) {
    const float4 dts = values[0];
    const float dt_of[kGroup] = {dts.x, dts.y, dts.z, dts.w};
    const float gate = v.z * fast_sigmoid(v.z);
    float y;
    if constexpr (At::kProducts) {
      const Writes<T> writes(at, dtx, staged.B[j0 + at.own]);
      Reads<T> reads(at, &staged.C[j0]);
#pragma unroll kUnroll
      for (int j = 0; j < kGroup; ++j) {
        float write[kStates], read[kStates];
        writes.at_token(j, write);
        advance_all(chunk, rows, i + j, dt_of[j], staged.B[j0 + j], write, read);
        reads.add(j, StateParts<T>(read));
      }
      y = reads.own(at);
    } else {
      const float4 dtxs = values[1];
      const float dtx_of[kGroup] = {dtxs.x, dtxs.y, dtxs.z, dtxs.w};
      float sums[kGroup] = {};
#pragma unroll kUnroll
      for (int j = 0; j < kGroup; ++j) {
        float B[kStates], C[kStates], read[kStates];
        load_factors(staged.B[j0 + j], at, B);
        load_factors(staged.C[j0 + j], at, C);
#pragma unroll
        for (int n = 0; n < kStates; ++n) B[n] *= dtx_of[j];
        advance_all(chunk, rows, i + j, dt_of[j], staged.B[j0 + j], B, read);
#pragma unroll
        for (int n = 0; n < kStates; ++n) sums[j] = fmaf(C[n], read[n], sums[j]);
      }
      y = sum_lanes<kLanes>(sums, at.lane);
    }
    const int own = i + at.own;
    if (own <= rows.last && at.active && at.g < kGroup) {
      rows.out[own] = static_cast<T>(finish(chunk.begin + own, v.x, gate, y));
    }
  }

  __device__ void advance_all(const Chunk& chunk, const Columns<T>& rows, int i, float dt,
                              const T* B, const float (&write)[kStates], float (&read)[kStates]) {
    const int64_t t = chunk.begin + i;
    const bool exists = i <= rows.last && at.active;
    float x = 0;
    if constexpr (kTaps) x = exists ? static_cast<float>(a.in.x(t, at.e)) : 0.0f;
#pragma unroll kUnrollStates
    for (int n = 0; n < kStates; ++n) read[n] = advance(t, exists, n, dt, x, write[n], B);
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

template <class T, int kLanes, int kStates>
struct Shared {
  Stage<T, kLanes * kStates> stages[2];
  float4 values[kWarps][2][32 / kLanes][2];  // dt and dt x of four tokens
};

// Loads run a tile of 16 tokens ahead of the walk, steps one group: nothing in a group waits for
// them.
template <class T, int kLanes, int kStates, bool kTaps>
__device__ void walk_chunk(Walk<T, kLanes, kStates, kTaps>& walk, const Chunk& chunk,
                           Shared<T, kLanes, kStates>& shared) {
  using Staged = Stage<T, kLanes * kStates>;
  constexpr int kTile = ScanForward::kCheckpointEvery;
  constexpr int kGroups = (Staged::kTokens < kTile ? Staged::kTokens : kTile) / kGroup;
  const Forward<T>& a = walk.a;
  const Columns<T> rows(a, chunk, walk.at);
  if (rows.last < 0) return;
  auto& values = shared.values[threadIdx.x / 32];
  const int c = walk.at.c, g = walk.at.own;
  int64_t checkpoint = checkpoint_begin(chunk.first, chunk.s) + (chunk.begin - chunk.first) / kTile;
  Own now[kGroups], next[kGroups];
#pragma unroll
  for (int k = 0; k < kGroups; ++k) now[k] = rows.at(k * kGroup + g);
  float dtx = walk.pass_step(chunk, rows, g, now[0], values[0][c]);
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
        const float dtx_after = walk.pass_step(chunk, rows, i + kGroup + g,
                                               k + 1 < kGroups ? now[(k + 1) % kGroups] : next[0],
                                               values[(group + 1) % 2][c]);
        walk.walk(chunk, rows, i, now[k], dtx, staged, j, values[group % 2][c]);
        dtx = dtx_after;
      }
#pragma unroll
      for (int k = 0; k < kGroups; ++k) now[k] = next[k];
    }
    __syncthreads();
  }
  __pipeline_wait_prior(0);
}

template <class T, int kLanes, int kStates, bool kTaps>
__global__ void __launch_bounds__(kThreads, kTaps || kStates > 4 ? 1 : 4)
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
  const int64_t chunk = chunk_for(args.in, kWarpsAtATime);
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
    with_layout(d_state, [&](auto lanes, auto states) {
      run<decltype(lanes)::value, decltype(states)::value>(device, a, any_active_forward(args.taps),
                                                           chunk_rows(args.in, chunk));
    });
  });
}

}  // namespace elapse::cuda

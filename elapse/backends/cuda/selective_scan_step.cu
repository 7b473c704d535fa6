// SPDX-License-Identifier: Apache-2.0
// The selective scan of one token of each sequence, as decoding has it: the lanes of
// selective_scan.cuh, with the arithmetic of a walk's token. Bound: latency.
#include "elapse/backends/cuda/selective_scan.cuh"

namespace elapse::cuda::scan {
namespace {

template <class T>
struct Step {
  Inputs<T> in;
  float* pool;
  Rows<T> out;
};

template <class T, int kLanes, int kStates>
__global__ void __launch_bounds__(kThreads) step_kernel(const __grid_constant__ Step<T> a) {
  start_next();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t s = blockIdx.x;
  const Lane<kLanes, kStates> at(a.in, (blockIdx.y * int64_t{kWarps} + warp) * (32 / kLanes));
  float A2[kStates], h[kStates] = {}, B[kStates], C[kStates];
  load_A(a.in, at, A2);
  const float bias = a.in.dt_bias[at.e], skip = a.in.D[at.e];
  const int64_t start = a.in.start_slots[s], end = a.in.end_slots[s];
  if (start >= 0) {
    load_states(a.pool + state_row(a.in, start, at.e), at, a.in.d_state, a.in.vectors, h);
  }
  wait_for_earlier();
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int n = at.state(i);
    B[i] = n < a.in.d_state ? static_cast<float>(a.in.B(s, n)) : 0.0f;
    C[i] = n < a.in.d_state ? static_cast<float>(a.in.C(s, n)) : 0.0f;
  }
  const float x = static_cast<float>(a.in.x(s, at.e)), z = static_cast<float>(a.in.z(s, at.e));
  const float dt = fast_softplus(static_cast<float>(a.in.dt_raw(s, at.e)) + bias), dtx = dt * x;
  float y = 0;
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const float decay = exp2_fast(dt * A2[i]), write = dtx * B[i];
    h[i] = fmaf(decay, h[i], write);
    y = fmaf(C[i], h[i], y);
  }
  // In the order of sum_lanes.
  y += __shfl_xor_sync(~0u, y, 2);
  y += __shfl_xor_sync(~0u, y, 1);
#pragma unroll
  for (int step = 4; step < kLanes; step *= 2) y += __shfl_xor_sync(~0u, y, step);
  if (!at.active) return;
  if (at.g == 0) a.out(s, at.e) = static_cast<T>(fmaf(skip, x, y) * (z * fast_sigmoid(z)));
  if (end >= 0) {
    store_states(a.pool + state_row(a.in, end, at.e), at, a.in.d_state, a.in.vectors, h);
  }
}

template <class T>
Step<T> step_of(const ScanForward& args) {
  const ScanInputs& in = args.in;
  return {.in = {.x = Rows<const T>(in.x),
                 .dt_raw = Rows<const T>(in.dt_raw),
                 .z = Rows<const T>(in.z),
                 .B = Rows<const T>(in.B),
                 .C = Rows<const T>(in.C),
                 .dt_bias = in.dt_bias.data<float>(),
                 .A = in.A.data<float>(),
                 .D = in.D.data<float>(),
                 .start_slots = in.seqs.start_slots.data<int64_t>(),
                 .end_slots = in.seqs.end_slots.data<int64_t>(),
                 .n_seqs = in.seqs.count(),
                 .d_inner = in.A.dim(0),
                 .d_state = static_cast<int>(in.A.dim(1)),
                 .vectors = in.A.dim(1) % 4 == 0 && is_aligned(in.A) && is_aligned(args.pool)},
          .pool = args.pool.data<float>(),
          .out = Rows<T>(args.out)};
}

}  // namespace

bool step_forward(Device& device, const ScanForward& args) {
  const Sequences& seqs = args.in.seqs;
  if (seqs.max_len != 1 || seqs.tokens != seqs.count() || !args.pool || args.checkpoints ||
      any_active_forward(args.taps)) {
    return false;
  }
  with_type(args.in.x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_layout(args.in.A.dim(1), [&](auto lanes, auto states) {
      constexpr int kLanes = decltype(lanes)::value, kStates = decltype(states)::value;
      launch_in_chain(
          device, name_of(args.kOp), step_kernel<T, kLanes, kStates>,
          {.grid = grid_of(seqs.count(), divide_up(args.in.A.dim(0), kWarps * (32 / kLanes))),
           .threads = kThreads,
           .states = args.pool.raw()},
          step_of<T>(args));
    });
  });
  return true;
}

}  // namespace elapse::cuda::scan

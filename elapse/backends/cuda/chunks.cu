// SPDX-License-Identifier: Apache-2.0
// Bound: memory, 8 bytes a state of a chunk.
#include "elapse/backends/cuda/chunks.cuh"

namespace elapse::cuda {
namespace {

// A thread a state of a sequence.
template <bool kBack>
__global__ void __launch_bounds__(kTileThreads)
    pass_kernel(const __grid_constant__ ChunkSizes in, const __grid_constant__ ChunkPass a) {
  constexpr int kAhead = 8;
  const int64_t s = blockIdx.x, i = blockIdx.y * int64_t{kTileThreads} + threadIdx.x;
  const int64_t width = in.d_inner() * in.d_state, head = i / (in.head_dim * in.d_state);
  if (i >= width) return;
  const int64_t from = kBack ? s : in.start_slots[s], to = kBack ? s : in.end_slots[s];
  const int64_t first = in.cu[s] / in.chunk + s;
  const int64_t chunks = (in.cu[s + 1] - in.cu[s] + in.chunk - 1) / in.chunk;
  const int64_t decays = in.n_heads * (a.by_state ? in.d_state : 1);
  const float* decay_of = a.decays + (a.by_state ? head * in.d_state + i % in.d_state : head);
  float h = from >= 0 && a.start != nullptr ? a.start[from * width + i] : 0.0f;
  for (int64_t begin = 0; begin < chunks; begin += kAhead) {
    float own[kAhead], decay[kAhead];
    const auto row = [&](int j) { return first + (kBack ? chunks - 1 - begin - j : begin + j); };
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (begin + j >= chunks) break;
      own[j] = a.states[row(j) * width + i];
      decay[j] = decay_of[row(j) * decays];
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (begin + j >= chunks) break;
      a.states[row(j) * width + i] = h;
      h = fmaf(decay[j], h, own[j]);
    }
  }
  if (to >= 0 && a.end != nullptr) a.end[to * width + i] = h;
}

}  // namespace

void pass_states(Device& device, const ChunkSizes& in, const ChunkPass& args, bool back) {
  launch(device, "passing states on", back ? pass_kernel<true> : pass_kernel<false>,
         grid_of(in.n_seqs, divide_up(in.d_inner() * in.d_state, kTileThreads)), kTileThreads, 0,
         in, args);
}

}  // namespace elapse::cuda

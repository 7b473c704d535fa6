// SPDX-License-Identifier: Apache-2.0
// Taps of values that stand between operations: a block a row. Bound: memory, 8 bytes an element. A
// value of bf16 is widened first and rounded at the end.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;

struct RowTap {
  Rows<const float> x;
  Rows<float> out;  // x's where it is not copied
  TapView tap;
  int64_t rows, channels, states;
  bool rounds;  // to bf16, before they are watched
};

// v - (v.u / u.u) u of the part's channels; so too its gradient, as the projection is its own
// transpose.
__device__ void project_out(const EditView& edit, int64_t r, float* row) {
  const PartView& part = edit.part;
  const int64_t held = part.row_of == nullptr ? r : part.row_of[r];
  if (held < 0) return;  // the whole block's answer
  const int64_t n = part.channel_count * part.state_count;
  float* v = row + part.first_channel * part.state_count;
  const float* u = edit.source + held * n;
  double along = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    along += double(v[i]) * u[i];
    squares += double(u[i]) * u[i];
  }
  along = block_sum(along);
  squares = block_sum(squares);
  if (squares == 0) return;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    v[i] -= static_cast<float>(along / squares * u[i]);
  }
}

// One of the tap's edits, and neither watcher.
__device__ TapView edit_of(const TapView& tap, int only) {
  TapView one;
  one.edits = tap.edits + only;
  one.n_edits = 1;
  return one;
}

template <bool kBack>
__device__ void edit_row(const RowTap& a, int64_t r, float* row, int edit) {
  const int64_t width = a.channels * a.states;
  if (a.tap.edits[edit].op == EditOp::project_out) {
    project_out(a.tap.edits[edit], r, row);
    return __syncthreads();
  }
  const TapView one = edit_of(a.tap, edit);
  bool changed = false;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const int64_t channel = i / a.states, state = i % a.states;
    row[i] = kBack ? one.back(row[i], r, channel, state)
                   : one.through(row[i], r, channel, state, changed);
  }
  __syncthreads();
}

// What passes the point, kept: forward after the edits, backward before they are undone.
template <bool kBack>
__device__ void keep_row(const RowTap& a, int64_t r, const float* row) {
  TapView keeper = a.tap;
  keeper.n_edits = 0;
  bool changed = false;
  for (int64_t i = threadIdx.x; i < a.channels * a.states; i += blockDim.x) {
    const int64_t channel = i / a.states, state = i % a.states;
    kBack ? keeper.back(row[i], r, channel, state)
          : keeper.through(row[i], r, channel, state, changed);
  }
}

template <bool kBack>
__global__ void tap_kernel(RowTap a) {
  const int64_t width = a.channels * a.states;
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    float* row = a.out.row(r);
    if (a.out.data != a.x.data) {
      for (int64_t i = threadIdx.x; i < width; i += blockDim.x) row[i] = a.x(r, i);
      __syncthreads();
    }
    if (kBack) keep_row<true>(a, r, row);
    __syncthreads();
    for (int i = 0; i < a.tap.n_edits; ++i) {
      edit_row<kBack>(a, r, row, kBack ? a.tap.n_edits - 1 - i : i);
    }
    if (!kBack) {
      for (int64_t i = threadIdx.x; a.rounds && i < width; i += blockDim.x) {
        row[i] = static_cast<float>(static_cast<bf16>(row[i]));
      }
      keep_row<false>(a, r, row);
    }
  }
}

template <bool kBack>
void run(Device& device, Op op, const Tensor& x, const Tensor& out, const Tap& tap) {
  const int64_t rows = x.dim(0), channels = x.shape().rank() > 1 ? x.dim(1) : 1,
                states = x.shape().rank() > 2 ? x.dim(2) : 1;
  if (x.numel() == 0) return;
  const bool is_bf16 = x.dtype() == DType::bf16;
  Tensor in = x, into = out ? out : x;
  if (is_bf16) {
    in = into = device.empty(DType::f32, x.shape());
    copy(device, {x, in});
  }
  TapViews views(device);
  const RowTap args = {Rows<const float>(in),
                       Rows<float>(into),
                       views.view(tap, channels, states),
                       rows,
                       channels,
                       states,
                       is_bf16};
  launch(device, name_of(op), tap_kernel<kBack>, grid_of(std::min<int64_t>(rows, 1 << 16)),
         kThreads, 0, args);
  if (is_bf16 && out) copy(device, {into, out});
}

}  // namespace

void tap_forward(Device& device, const TapForward& a) {
  run<false>(device, a.kOp, a.x, a.out, a.tap);
}

void tap_backward(Device& device, const TapBackward& a) {
  run<true>(device, a.kOp, a.dout, a.dx, a.tap);
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// Recurrent cells. Each token needs the whole h before it, and backward, with the weight turned,
// the products of the token after it. Sequences of some length go through one kernel that keeps the
// weight on the multiprocessors over all tokens (recurrent_resident.cuh), where that fits. Others
// take a launch a token, of all sequences at once: a warp one channel of 8 sequences, whose
// products with the weight's rows it sums and whose gates it then computes. Bound of these: the
// weight, read from the L2 cache for every token, and launches.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/recurrent_resident.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kSequences = 8;  // of a warp

// sums[g] = row g of a warp's weights . row(s), of sequence s = first + this lane, where is(s).
template <int kRows, class RowOf, class WeightOf>
__device__ void multiply(int64_t n_seqs, int64_t first, int64_t width, RowOf&& row_of,
                         WeightOf&& weight_of, float (&sums)[kRows]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* rows[kSequences];
#pragma unroll
  for (int s = 0; s < kSequences; ++s) {
    rows[s] = first + s < n_seqs ? row_of(first + s) : nullptr;
  }
  float sum[kRows][kSequences] = {};
  for (int64_t k = lane; k < width; k += 32) {
    float weight[kRows];
#pragma unroll
    for (int g = 0; g < kRows; ++g) weight[g] = weight_of(g)[k];
#pragma unroll
    for (int s = 0; s < kSequences; ++s) {
      const float v = rows[s] == nullptr ? 0.0f : rows[s][k];
#pragma unroll
      for (int g = 0; g < kRows; ++g) sum[g][s] = fmaf(weight[g], v, sum[g][s]);
    }
  }
#pragma unroll
  for (int g = 0; g < kRows; ++g) {
#pragma unroll
    for (int s = 0; s < kSequences; ++s) {
      const float v = warp_sum(sum[g][s]);
      if (lane == s) sums[g] = v;
    }
  }
}

// A token of each sequence.
template <Cell kCell, class T>
__global__ void forward_kernel(const __grid_constant__ CellForward<kCell, T> a, int64_t index,
                               const float* state, float* next) {
  constexpr int kGates = a.kGates, kState = a.kState;
  const RecurrentCall& call = a.call;
  const int64_t d_inner = call.d_inner, e = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t first = blockIdx.y * int64_t{kSequences}, lane = threadIdx.x % 32;
  if (e >= d_inner) return;
  float m[kGates] = {};
  multiply<kGates>(
      call.n_seqs, first, d_inner, [&](int64_t s) { return state + s * kState * d_inner; },
      [&](int g) { return call.weight + (g * d_inner + e) * d_inner; }, m);
  const int64_t s = first + lane;
  if (lane >= kSequences || s >= call.n_seqs) return;
  auto loaded = a.load(s, index, e, state);
  a.finish(s, index, e, loaded, m, next);
}

template <Cell kCell, class T>
__global__ void backward_kernel(const __grid_constant__ CellBackward<kCell, T> a, int64_t index) {
  constexpr int kGates = a.kGates;
  const RecurrentCall& call = a.call;
  const int64_t d_inner = call.d_inner, e = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t first = blockIdx.y * int64_t{kSequences}, lane = threadIdx.x % 32;
  if (e >= d_inner) return;
  float through[1] = {0};
  multiply<1>(
      call.n_seqs, first, kGates * d_inner, [&](int64_t s) { return a.after(s, index); },
      [&](int) { return call.weight + e * kGates * d_inner; }, through);
  const int64_t s = first + lane;
  if (lane >= kSequences || s >= call.n_seqs) return;
  auto loaded = a.load(s, index, e);
  a.finish(s, index, e, loaded, through[0]);
}

// States of sequences to or from the slots of a pool, of `width` numbers each.
__global__ void starts_kernel(const float* pool, const int64_t* slots, int64_t width,
                              float* state) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i < width) state[s * width + i] = slots[s] < 0 ? 0.0f : pool[slots[s] * width + i];
}
__global__ void ends_kernel(float* pool, const int64_t* slots, int64_t width, const float* state) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i < width && slots[s] >= 0) pool[slots[s] * width + i] = state[s * width + i];
}

__global__ void turn_kernel(const float* weight, int64_t rows, int64_t columns, float* turned) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, c = blockIdx.x;
  if (i < rows) turned[c * rows + i] = weight[i * columns + c];
}

CellTaps taps_of(const RecurrentTaps& taps, int64_t d_inner, TapViews& views) {
  CellTaps list;
  for (size_t k = 0; k < taps.gates.size(); ++k) list.gates[k] = views.view(taps.gates[k], d_inner);
  list.c = views.view(taps.c, d_inner);
  list.h = views.view(taps.h, d_inner);
  return list;
}

// Calls run(std::integral_constant of the cell).
template <class Run>
void with_cell(Cell cell, Run&& run) {
  switch (cell) {
    case Cell::rnn:
      return run(std::integral_constant<Cell, Cell::rnn>());
    case Cell::lstm:
      return run(std::integral_constant<Cell, Cell::lstm>());
    case Cell::gru:
      return run(std::integral_constant<Cell, Cell::gru>());
  }
}

dim3 step_grid(const Sequences& seqs, int64_t d_inner) {
  return grid_of(divide_up(d_inner, kWarps), divide_up(seqs.count(), kSequences));
}

template <Cell kCell, class T>
void forward(Device& device, const RecurrentForward& a) {
  const int64_t d_inner = a.weight.dim(1), n_seqs = a.seqs.count();
  const int64_t width = state_rows(kCell) * d_inner;
  const Tensor weight = converted(device, a.weight, DType::f32);
  const Tensor states = device.empty(DType::f32, Shape{2, n_seqs * width});
  float* state = states.data<float>();
  float* next = state + n_seqs * width;
  float* pool = a.pool ? a.pool.data<float>() : nullptr;
  const dim3 slots_grid = grid_of(n_seqs, divide_up(width, kThreads));
  launch(device, name_of(a.kOp), starts_kernel, slots_grid, kThreads, 0, pool,
         a.seqs.start_slots.data<int64_t>(), width, state);
  TapViews views(device);
  const CellForward<kCell, T> args = {
      .call = {d_inner, n_seqs, a.seqs.max_len, a.seqs.cu_seqlens.data<int64_t>(),
               weight.data<float>(), taps_of(a.taps, d_inner, views)},
      .a = Rows<const T>(a.a),
      .bias = a.bias.data<float>(),
      .before = a.before ? a.before.data<float>() : nullptr,
      .inner = a.inner ? a.inner.data<float>() : nullptr,
      .h = Rows<T>(a.h)};
  if (forward_resident(device, args, state, next)) {
    if (a.seqs.max_len % 2 == 1) std::swap(state, next);
  } else {
    for (int64_t i = 0; i < a.seqs.max_len; ++i) {
      launch(device, name_of(a.kOp), forward_kernel<kCell, T>, step_grid(a.seqs, d_inner), kThreads,
             0, args, i, state, next);
      std::swap(state, next);
    }
  }
  if (pool == nullptr) return;
  launch(device, name_of(a.kOp), ends_kernel, slots_grid, kThreads, 0, pool,
         a.seqs.end_slots.data<int64_t>(), width, state);
}

template <Cell kCell, class T>
void backward(Device& device, const RecurrentBackward& a) {
  const int64_t d_inner = a.weight.dim(1), gates = a.weight.dim(0), n_seqs = a.seqs.count();
  const int64_t width = state_rows(kCell) * d_inner;
  const Tensor weight = converted(device, a.weight, DType::f32);
  const Tensor turned = device.empty(DType::f32, Shape{d_inner, gates});
  launch(device, name_of(a.kOp), turn_kernel, grid_of(d_inner, divide_up(gates, kThreads)),
         kThreads, 0, weight.data<float>(), gates, d_inner, turned.data<float>());
  const Tensor dstate = a.dpool ? take_end_gradients(device, a.dpool, a.seqs)
                                : device.zeros(DType::f32, Shape{n_seqs, width});
  TapViews views(device);
  const CellBackward<kCell, T> args = {
      .call = {d_inner, n_seqs, a.seqs.max_len, a.seqs.cu_seqlens.data<int64_t>(),
               turned.data<float>(), taps_of(a.taps, d_inner, views)},
      .dh = Rows<const T>(a.dh),
      .before = a.before.data<float>(),
      .inner = a.inner.data<float>(),
      .dstate = dstate.data<float>(),
      .da = Rows<T>(a.da),
      .dm = a.dm.data<float>()};
  const int64_t last = a.dpool ? -1 : 0;
  if (!backward_resident(device, args, last)) {
    for (int64_t i = a.seqs.max_len - 1; i >= last; --i) {
      launch(device, name_of(a.kOp), backward_kernel<kCell, T>, step_grid(a.seqs, d_inner),
             kThreads, 0, args, i);
    }
  }
  if (a.dpool) give_start_gradients(device, dstate, a.seqs, a.dpool);
}

}  // namespace

void recurrent_forward(Device& device, const RecurrentForward& a) {
  with_cell(a.cell, [&]<Cell kCell>(std::integral_constant<Cell, kCell>) {
    if (a.a.dtype() == DType::bf16) forward<kCell, bf16>(device, a);
    else forward<kCell, float>(device, a);
  });
}

void recurrent_backward(Device& device, const RecurrentBackward& a) {
  with_cell(a.cell, [&]<Cell kCell>(std::integral_constant<Cell, kCell>) {
    if (a.dh.dtype() == DType::bf16) backward<kCell, bf16>(device, a);
    else backward<kCell, float>(device, a);
  });
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// A launch a token, of all sequences at once, as each needs the whole h before it: a warp one
// channel of 8 sequences, whose products with the weight's rows it sums and whose gates it then
// computes. Backward likewise, with the weight turned: a token's gradient is known when the
// products of the one after it are. Bound: the weight, read from the L2 cache for every token, and
// launches: some 3 microseconds a token and direction.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/slots.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kSequences = 8;  // of a warp

struct Taps {
  TapView gates[RecurrentTaps::kMostGates], c, h;
};

__device__ float passed(const TapView& tap, float value, int64_t t, int64_t e) {
  bool changed = false;
  return tap.through(value, t, e, 0, changed);
}

__device__ float slope_of_sigmoid(float s) { return s * (1.0f - s); }
__device__ float slope_of_tanh(float y) { return 1.0f - y * y; }

// Channel e of token t: `a`, `m` and `inner` are d_inner apart each.
struct Channel {
  const Taps& taps;
  int64_t d_inner, t, e;

  __device__ float gate(int k, float value) const { return passed(taps.gates[k], value, t, e); }

  template <class T>
  __device__ float rnn(const T* a, const float* m, float* inner) const {
    inner[0] = tanhf(static_cast<float>(a[e]) + m[0]);
    return passed(taps.h, inner[0], t, e);
  }
  template <class T>
  __device__ float lstm(const T* a, const float* m, float* inner, float& c) const {
    float v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float sum = static_cast<float>(a[k * d_inner + e]) + m[k];
      inner[k] = k == 2 ? tanhf(sum) : sigmoid(sum);
      v[k] = gate(k, inner[k]);
    }
    inner[4] = v[1] * c + v[0] * v[2];
    c = passed(taps.c, inner[4], t, e);
    return passed(taps.h, v[3] * tanhf(c), t, e);
  }
  template <class T>
  __device__ float gru(const T* a, const float* m, float* inner, float h) const {
    inner[0] = sigmoid(static_cast<float>(a[e]) + m[0]);
    const float r = gate(0, inner[0]);
    inner[1] = sigmoid(static_cast<float>(a[d_inner + e]) + m[1]);
    const float z = gate(1, inner[1]);
    inner[2] = tanhf(static_cast<float>(a[2 * d_inner + e]) + r * m[2]);
    const float n = gate(2, inner[2]);
    inner[3] = m[2];
    return passed(taps.h, (1.0f - z) * n + z * h, t, e);
  }

  // Backward: dh of the edited h arrives, and dc; da and dm, a gate apart here, are made, and dh
  // and dc become what this channel hands to the token before, without what goes through W.
  __device__ void rnn_back(const float* inner, float& dh, float* da, float* dm) const {
    da[0] = dm[0] = taps.h.back(dh, t, e, 0) * slope_of_tanh(inner[0]);
    dh = 0;
  }
  __device__ void lstm_back(const float* inner, float c_before, float& dh, float& dc, float* da,
                            float* dm) const {
    float v[4], dv[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = gate(k, inner[k]);
    const float squashed = tanhf(passed(taps.c, inner[4], t, e));
    const float dh_here = taps.h.back(dh, t, e, 0);
    const float dc_here = taps.c.back(dc + dh_here * v[3] * slope_of_tanh(squashed), t, e, 0);
    dv[0] = dc_here * v[2];
    dv[1] = dc_here * c_before;
    dv[2] = dc_here * v[0];
    dv[3] = dh_here * squashed;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float slope = k == 2 ? slope_of_tanh(inner[k]) : slope_of_sigmoid(inner[k]);
      da[k] = dm[k] = taps.gates[k].back(dv[k], t, e, 0) * slope;
    }
    dh = 0;
    dc = dc_here * v[1];
  }
  __device__ void gru_back(const float* inner, float h_before, float& dh, float* da,
                           float* dm) const {
    const float r = gate(0, inner[0]), z = gate(1, inner[1]), n = gate(2, inner[2]);
    const float dh_here = taps.h.back(dh, t, e, 0);
    da[2] = taps.gates[2].back(dh_here * (1.0f - z), t, e, 0) * slope_of_tanh(inner[2]);
    dm[2] = da[2] * r;
    const float dr = taps.gates[0].back(da[2] * inner[3], t, e, 0);
    const float dz = taps.gates[1].back(dh_here * (h_before - n), t, e, 0);
    da[0] = dm[0] = dr * slope_of_sigmoid(inner[0]);
    da[1] = dm[1] = dz * slope_of_sigmoid(inner[1]);
    dh = dh_here * z;
  }
};

struct Step {
  int64_t d_inner, n_seqs, index;  // the token of each sequence
  const int64_t* cu;
  const float* weight;  // backward (d_inner, gates d_inner)
  Taps taps;
};

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
      float v = sum[g][s];
      v = warp_sum(v);
      if (lane == s) sums[g] = v;
    }
  }
}

template <Cell kCell, class T>
struct Forward {
  Step step;
  Rows<const T> a;
  const float* bias;
  const float* state;  // (n_seqs, state_rows, d_inner)
  float* next;
  float* before;  // or null; so too
  float* inner;
  Rows<T> h;
};

template <Cell kCell, class T>
__global__ void forward_kernel(const __grid_constant__ Forward<kCell, T> a) {
  constexpr int kGates = static_cast<int>(gate_count(kCell));
  constexpr int kState = static_cast<int>(state_rows(kCell));
  constexpr int kInner = static_cast<int>(inner_rows(kCell));
  const Step& step = a.step;
  const int64_t d_inner = step.d_inner, e = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t first = blockIdx.y * int64_t{kSequences}, lane = threadIdx.x % 32;
  if (e >= d_inner) return;
  float m[kGates] = {};
  multiply<kGates>(
      step.n_seqs, first, d_inner, [&](int64_t s) { return a.state + s * kState * d_inner; },
      [&](int g) { return step.weight + (g * d_inner + e) * d_inner; }, m);
  const int64_t s = first + lane;
  if (lane >= kSequences || s >= step.n_seqs) return;
  float state[kState];
#pragma unroll
  for (int r = 0; r < kState; ++r) state[r] = a.state[(s * kState + r) * d_inner + e];
  const int64_t t = step.cu[s] + step.index;
  if (t < step.cu[s + 1]) {
#pragma unroll
    for (int r = 0; r < kState; ++r) {
      if (a.before != nullptr) a.before[(t * kState + r) * d_inner + e] = state[r];
    }
#pragma unroll
    for (int g = 0; g < kGates; ++g) m[g] += a.bias[g * d_inner + e];
    const Channel channel = {step.taps, d_inner, t, e};
    float inner[kInner];
    const T* own = a.a.row(t);
    if constexpr (kCell == Cell::rnn) state[0] = channel.rnn(own, m, inner);
    if constexpr (kCell == Cell::lstm) state[0] = channel.lstm(own, m, inner, state[1]);
    if constexpr (kCell == Cell::gru) state[0] = channel.gru(own, m, inner, state[0]);
#pragma unroll
    for (int r = 0; r < kInner; ++r) {
      if (a.inner != nullptr) a.inner[(t * kInner + r) * d_inner + e] = inner[r];
    }
    a.h(t, e) = static_cast<T>(state[0]);
  }
#pragma unroll
  for (int r = 0; r < kState; ++r) a.next[(s * kState + r) * d_inner + e] = state[r];
}

template <Cell kCell, class T>
struct Backward {
  Step step;  // index -1: the gradients of the starts alone
  Rows<const T> dh;
  const float* before;
  const float* inner;
  float* dstate;  // (n_seqs, state_rows, d_inner): of the token at hand without W's share
  Rows<T> da;
  float* dm;
};

template <Cell kCell, class T>
__global__ void backward_kernel(const __grid_constant__ Backward<kCell, T> a) {
  constexpr int kGates = static_cast<int>(gate_count(kCell));
  constexpr int kState = static_cast<int>(state_rows(kCell));
  constexpr int kInner = static_cast<int>(inner_rows(kCell));
  const Step& step = a.step;
  const int64_t d_inner = step.d_inner, e = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t first = blockIdx.y * int64_t{kSequences}, lane = threadIdx.x % 32;
  if (e >= d_inner) return;
  float through[1] = {0};
  multiply<1>(
      step.n_seqs, first, kGates * d_inner,
      [&](int64_t s) -> const float* {
        const int64_t next = step.cu[s] + step.index + 1;
        return next < step.cu[s + 1] ? a.dm + next * kGates * d_inner : nullptr;
      },
      [&](int) { return step.weight + e * kGates * d_inner; }, through);
  const int64_t s = first + lane, len = s < step.n_seqs ? step.cu[s + 1] - step.cu[s] : 0;
  if (lane >= kSequences || s >= step.n_seqs || step.index >= len) return;
  float* to = a.dstate + s * kState * d_inner + e;
  float dh = to[0] + through[0];
  if (step.index < 0) {
    to[0] = dh;
    return;
  }
  const int64_t t = step.cu[s] + step.index;
  dh += static_cast<float>(a.dh(t, e));
  float inner[kInner], da[kGates], dm[kGates];
#pragma unroll
  for (int r = 0; r < kInner; ++r) inner[r] = a.inner[(t * kInner + r) * d_inner + e];
  const Channel channel = {step.taps, d_inner, t, e};
  if constexpr (kCell == Cell::rnn) channel.rnn_back(inner, dh, da, dm);
  if constexpr (kCell == Cell::lstm) {
    channel.lstm_back(inner, a.before[(t * kState + 1) * d_inner + e], dh, to[d_inner], da, dm);
  }
  if constexpr (kCell == Cell::gru) {
    channel.gru_back(inner, a.before[t * kState * d_inner + e], dh, da, dm);
  }
  to[0] = dh;
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    a.da(t, g * d_inner + e) = static_cast<T>(da[g]);
    a.dm[(t * kGates + g) * d_inner + e] = dm[g];
  }
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

Taps taps_of(const RecurrentTaps& taps, int64_t d_inner, TapViews& views) {
  Taps list;
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
  Forward<kCell, T> args = {.step = {d_inner, n_seqs, 0, a.seqs.cu_seqlens.data<int64_t>(),
                                     weight.data<float>(), taps_of(a.taps, d_inner, views)},
                            .a = Rows<const T>(a.a),
                            .bias = a.bias.data<float>(),
                            .before = a.before ? a.before.data<float>() : nullptr,
                            .inner = a.inner ? a.inner.data<float>() : nullptr,
                            .h = Rows<T>(a.h)};
  for (int64_t i = 0; i < a.seqs.max_len; ++i) {
    args.step.index = i;
    args.state = state;
    args.next = next;
    launch(device, name_of(a.kOp), forward_kernel<kCell, T>, step_grid(a.seqs, d_inner), kThreads,
           0, args);
    std::swap(state, next);
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
  Backward<kCell, T> args = {.step = {d_inner, n_seqs, 0, a.seqs.cu_seqlens.data<int64_t>(),
                                      turned.data<float>(), taps_of(a.taps, d_inner, views)},
                             .dh = Rows<const T>(a.dh),
                             .before = a.before.data<float>(),
                             .inner = a.inner.data<float>(),
                             .dstate = dstate.data<float>(),
                             .da = Rows<T>(a.da),
                             .dm = a.dm.data<float>()};
  for (int64_t i = a.seqs.max_len - 1; i >= (a.dpool ? -1 : 0); --i) {
    args.step.index = i;
    launch(device, name_of(a.kOp), backward_kernel<kCell, T>, step_grid(a.seqs, d_inner), kThreads,
           0, args);
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

// SPDX-License-Identifier: Apache-2.0
// What recurrent cells do for a channel of a token, whichever kernel sums the products of W and h.
#pragma once
#include "elapse/backends/cuda/slots.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {

struct CellTaps {
  TapView gates[RecurrentTaps::kMostGates], c, h;
};

__device__ inline float passed(const TapView& tap, float value, int64_t t, int64_t e) {
  bool changed = false;
  return tap.through(value, t, e, 0, changed);
}

__device__ inline float slope_of_sigmoid(float s) { return s * (1.0f - s); }
__device__ inline float slope_of_tanh(float y) { return 1.0f - y * y; }

// Channel e of token t, with a number a gate in `a` and `m`.
struct Channel {
  const CellTaps& taps;
  int64_t t, e;

  __device__ float gate(int k, float value) const { return passed(taps.gates[k], value, t, e); }

  __device__ float rnn(const float* a, const float* m, float* inner) const {
    inner[0] = tanhf(a[0] + m[0]);
    return passed(taps.h, inner[0], t, e);
  }
  __device__ float lstm(const float* a, const float* m, float* inner, float& c) const {
    float v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float sum = a[k] + m[k];
      inner[k] = k == 2 ? tanhf(sum) : sigmoid(sum);
      v[k] = gate(k, inner[k]);
    }
    inner[4] = v[1] * c + v[0] * v[2];
    c = passed(taps.c, inner[4], t, e);
    return passed(taps.h, v[3] * tanhf(c), t, e);
  }
  __device__ float gru(const float* a, const float* m, float* inner, float h) const {
    inner[0] = sigmoid(a[0] + m[0]);
    const float r = gate(0, inner[0]);
    inner[1] = sigmoid(a[1] + m[1]);
    const float z = gate(1, inner[1]);
    inner[2] = tanhf(a[2] + r * m[2]);
    const float n = gate(2, inner[2]);
    inner[3] = m[2];
    return passed(taps.h, (1.0f - z) * n + z * h, t, e);
  }

  // Backward: dh of the edited h arrives, and dc; da and dm, a number a gate, are made, and dh
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

// Of a call: taken by kernels by value.
struct RecurrentCall {
  int64_t d_inner, n_seqs, max_len;
  const int64_t* cu;
  const float* weight;  // backward (d_inner, gates d_inner)
  CellTaps taps;
};

// In both, what each channel reads of a token is read before the products are known: load(), and
// then finish(), with the products with W.
template <Cell kCell, class T>
struct CellForward {
  static constexpr int kGates = static_cast<int>(gate_count(kCell));
  static constexpr int kState = static_cast<int>(state_rows(kCell));
  static constexpr int kInner = static_cast<int>(inner_rows(kCell));

  RecurrentCall call;
  Rows<const T> a;
  const float* bias;
  float* before;  // or null; so too
  float* inner;
  Rows<T> h;

  struct Loaded {
    float a[kGates], state[kState];
  };
  // Of a sequence whose tokens are over, the state alone.
  __device__ Loaded load(int64_t s, int64_t index, int64_t e, const float* state) const {
    Loaded v = {};
    const int64_t t = call.cu[s] + index;
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      if (t < call.cu[s + 1]) v.a[g] = static_cast<float>(a(t, g * call.d_inner + e));
    }
#pragma unroll
    for (int r = 0; r < kState; ++r) v.state[r] = state[(s * kState + r) * call.d_inner + e];
    return v;
  }
  __device__ void finish(int64_t s, int64_t index, int64_t e, Loaded& v, float (&m)[kGates],
                         float* next) const {
    const int64_t t = call.cu[s] + index, d_inner = call.d_inner;
    if (t < call.cu[s + 1]) {
#pragma unroll
      for (int r = 0; r < kState; ++r) {
        if (before != nullptr) before[(t * kState + r) * d_inner + e] = v.state[r];
      }
#pragma unroll
      for (int g = 0; g < kGates; ++g) m[g] += bias[g * d_inner + e];
      const Channel channel = {call.taps, t, e};
      float of[kInner];
      if constexpr (kCell == Cell::rnn) v.state[0] = channel.rnn(v.a, m, of);
      if constexpr (kCell == Cell::lstm) v.state[0] = channel.lstm(v.a, m, of, v.state[1]);
      if constexpr (kCell == Cell::gru) v.state[0] = channel.gru(v.a, m, of, v.state[0]);
#pragma unroll
      for (int r = 0; r < kInner; ++r) {
        if (inner != nullptr) inner[(t * kInner + r) * d_inner + e] = of[r];
      }
      h(t, e) = static_cast<T>(v.state[0]);
    }
#pragma unroll
    for (int r = 0; r < kState; ++r) next[(s * kState + r) * d_inner + e] = v.state[r];
  }
};

template <Cell kCell, class T>
struct CellBackward {
  static constexpr int kGates = static_cast<int>(gate_count(kCell));
  static constexpr int kState = static_cast<int>(state_rows(kCell));
  static constexpr int kInner = static_cast<int>(inner_rows(kCell));

  RecurrentCall call;
  Rows<const T> dh;
  const float* before;
  const float* inner;
  float* dstate;  // (n_seqs, state_rows, d_inner): of the token at hand without W's share
  Rows<T> da;
  float* dm;

  struct Loaded {
    float dh, inner[kInner], before, dstate[kState];
  };
  // Index -1: the gradients of the starts alone.
  __device__ Loaded load(int64_t s, int64_t index, int64_t e) const {
    Loaded v = {};
    const int64_t t = call.cu[s] + index, d_inner = call.d_inner;
    if (t >= call.cu[s + 1]) return v;
#pragma unroll
    for (int r = 0; r < kState; ++r) v.dstate[r] = dstate[(s * kState + r) * d_inner + e];
    if (index < 0) return v;
    v.dh = static_cast<float>(dh(t, e));
#pragma unroll
    for (int r = 0; r < kInner; ++r) v.inner[r] = inner[(t * kInner + r) * d_inner + e];
    if (kCell == Cell::lstm) v.before = before[(t * kState + 1) * d_inner + e];
    if (kCell == Cell::gru) v.before = before[t * kState * d_inner + e];
    return v;
  }
  // dm of the token after, (gates d_inner); null where there is none.
  __device__ const float* after(int64_t s, int64_t index) const {
    const int64_t next = call.cu[s] + index + 1;
    return next < call.cu[s + 1] ? dm + next * kGates * call.d_inner : nullptr;
  }
  __device__ void finish(int64_t s, int64_t index, int64_t e, Loaded& v, float through) const {
    const int64_t t = call.cu[s] + index, d_inner = call.d_inner;
    if (t >= call.cu[s + 1]) return;
    float* to = dstate + s * kState * d_inner + e;
    float back = v.dstate[0] + through;
    if (index >= 0) {
      back += v.dh;
      const Channel channel = {call.taps, t, e};
      float of_a[kGates], of_m[kGates];
      if constexpr (kCell == Cell::rnn) channel.rnn_back(v.inner, back, of_a, of_m);
      if constexpr (kCell == Cell::lstm) {
        channel.lstm_back(v.inner, v.before, back, v.dstate[1], of_a, of_m);
        to[d_inner] = v.dstate[1];
      }
      if constexpr (kCell == Cell::gru) channel.gru_back(v.inner, v.before, back, of_a, of_m);
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        da(t, g * d_inner + e) = static_cast<T>(of_a[g]);
        dm[(t * kGates + g) * d_inner + e] = of_m[g];
      }
    }
    to[0] = back;
  }
};

}  // namespace elapse::cuda

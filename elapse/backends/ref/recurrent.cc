// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/recurrent.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"
#include "elapse/backends/ref/widened.h"

namespace elapse::ref {
namespace {

template <class T>
using Row = std::vector<T>;

template <class T>
T slope_of_sigmoid(T s) {
  return s * (T(1) - s);
}
template <class T>
T slope_of_tanh(T y) {
  return T(1) - y * y;
}

// The taps, met element by element.
template <class T>
struct Taps {
  explicit Taps(const RecurrentTaps& t)
      : gates{TapAt<T>(t.gates[0]), TapAt<T>(t.gates[1]), TapAt<T>(t.gates[2]),
              TapAt<T>(t.gates[3])},
        c(t.c),
        h(t.h) {}
  TapAt<T> gates[RecurrentTaps::kMostGates];
  TapAt<T> c, h;
};

// m = W h + bias
template <class T>
Row<T> recurrent_share(const Tensor& weight, const Tensor& bias, const T* h) {
  const int64_t d_inner = weight.dim(1), rows = weight.dim(0);
  Row<T> m(static_cast<size_t>(rows));
  for (int64_t j = 0; j < rows; ++j) {
    double sum = bias.data<T>()[j];
    for (int64_t k = 0; k < d_inner; ++k) sum += double(weight.data<T>()[j * d_inner + k]) * h[k];
    m[static_cast<size_t>(j)] = static_cast<T>(sum);
  }
  return m;
}

// The steps of channel e of one token: `a` and `m` its shares of the gates, `inner` what backward
// needs, d_inner apart each; returns the new h, and c in place.
template <class T>
struct Channel {
  const Taps<T>& taps;
  int64_t d_inner, e, place;  // in a tapped value

  T rnn(const T* a, const T* m, T* inner) const {
    inner[e] = std::tanh(a[e] + m[e]);
    return taps.h(inner[e], place);
  }

  T lstm(const T* a, const T* m, T* inner, T& c) const {
    T gate[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t at = k * d_inner + e;
      inner[at] = k == 2 ? std::tanh(a[at] + m[at]) : sigmoid(a[at] + m[at]);
      gate[k] = taps.gates[k](inner[at], place);
    }
    inner[4 * d_inner + e] = gate[1] * c + gate[0] * gate[2];
    c = taps.c(inner[4 * d_inner + e], place);
    return taps.h(gate[3] * std::tanh(c), place);
  }

  T gru(const T* a, const T* m, T* inner, T h) const {
    const int64_t at_r = e, at_z = d_inner + e, at_n = 2 * d_inner + e;
    inner[at_r] = sigmoid(a[at_r] + m[at_r]);
    const T r = taps.gates[0](inner[at_r], place);
    inner[at_z] = sigmoid(a[at_z] + m[at_z]);
    const T z = taps.gates[1](inner[at_z], place);
    inner[at_n] = std::tanh(a[at_n] + r * m[at_n]);
    const T n = taps.gates[2](inner[at_n], place);
    inner[3 * d_inner + e] = m[at_n];
    return taps.h((T(1) - z) * n + z * h, place);
  }

  // Backward: dh of the edited h arrives; da and dm are written; dstate (h, c) is what this channel
  // itself hands to the token before, without what goes through W.
  void rnn_back(const T* inner, T dh, T* da, T* dm, T* dstate) const {
    da[e] = dm[e] = taps.h.back(dh, place) * slope_of_tanh(inner[e]);
    dstate[e] = T(0);
  }

  void lstm_back(const T* inner, const T* before, T dh, T* da, T* dm, T* dstate) const {
    T gate[4], dgate[4];
    for (int k = 0; k < 4; ++k) gate[k] = taps.gates[k](inner[k * d_inner + e], place);
    const T squashed = std::tanh(taps.c(inner[4 * d_inner + e], place));
    const T dh_here = taps.h.back(dh, place);
    const T dc =
        taps.c.back(dstate[d_inner + e] + dh_here * gate[3] * slope_of_tanh(squashed), place);
    dgate[0] = dc * gate[2];
    dgate[1] = dc * before[d_inner + e];
    dgate[2] = dc * gate[0];
    dgate[3] = dh_here * squashed;
    for (int k = 0; k < 4; ++k) {
      const int64_t at = k * d_inner + e;
      const T slope = k == 2 ? slope_of_tanh(inner[at]) : slope_of_sigmoid(inner[at]);
      da[at] = dm[at] = taps.gates[k].back(dgate[k], place) * slope;
    }
    dstate[e] = T(0);
    dstate[d_inner + e] = dc * gate[1];
  }

  void gru_back(const T* inner, const T* before, T dh, T* da, T* dm, T* dstate) const {
    const int64_t at_r = e, at_z = d_inner + e, at_n = 2 * d_inner + e;
    const T r = taps.gates[0](inner[at_r], place), z = taps.gates[1](inner[at_z], place),
            n = taps.gates[2](inner[at_n], place), dh_here = taps.h.back(dh, place);
    da[at_n] = taps.gates[2].back(dh_here * (T(1) - z), place) * slope_of_tanh(inner[at_n]);
    dm[at_n] = da[at_n] * r;
    const T dr = taps.gates[0].back(da[at_n] * inner[3 * d_inner + e], place);
    const T dz = taps.gates[1].back(dh_here * (before[e] - n), place);
    da[at_r] = dm[at_r] = dr * slope_of_sigmoid(inner[at_r]);
    da[at_z] = dm[at_z] = dz * slope_of_sigmoid(inner[at_z]);
    dstate[e] = dh_here * z;
  }
};

template <class T>
void recurrent_forward(Device& device, const RecurrentForward& args) {
  const Tensor weight = widened<T>(device, args.weight);
  const int64_t d_inner = args.weight.dim(1), remembered = state_rows(args.cell) * d_inner;
  const int64_t inner_size = inner_rows(args.cell) * d_inner;
  const int64_t* cu = args.seqs.cu_seqlens.data<int64_t>();
  const Taps<T> taps(args.taps);
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    const int64_t from = args.seqs.start_slots.data<int64_t>()[s];
    const int64_t to = args.seqs.end_slots.data<int64_t>()[s];
    Row<T> state(static_cast<size_t>(remembered), T(0)), inner(static_cast<size_t>(inner_size));
    if (from >= 0) std::copy_n(args.pool.data<T>() + from * remembered, remembered, state.begin());
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
      if (args.before) {
        std::copy(state.begin(), state.end(), args.before.data<T>() + t * remembered);
      }
      const Row<T> m = recurrent_share(weight, args.bias, state.data());
      const T* a = Matrix<T>(args.a).row(t);
      for (int64_t e = 0; e < d_inner; ++e) {
        const Channel<T> channel = {taps, d_inner, e, t * d_inner + e};
        T& h = state[static_cast<size_t>(e)];
        if (args.cell == Cell::rnn) {
          h = channel.rnn(a, m.data(), inner.data());
        } else if (args.cell == Cell::lstm) {
          h = channel.lstm(a, m.data(), inner.data(), state[static_cast<size_t>(d_inner + e)]);
        } else {
          h = channel.gru(a, m.data(), inner.data(), h);
        }
        Matrix<T>(args.h)(t, e) = h;
      }
      if (args.inner) std::copy(inner.begin(), inner.end(), args.inner.data<T>() + t * inner_size);
    }
    if (to >= 0) std::copy(state.begin(), state.end(), args.pool.data<T>() + to * remembered);
  }
}

template <class T>
void recurrent_backward(Device& device, const RecurrentBackward& args) {
  const Tensor weight = widened<T>(device, args.weight);
  const int64_t d_inner = args.weight.dim(1), remembered = state_rows(args.cell) * d_inner;
  const int64_t gates = args.weight.dim(0);
  const int64_t* cu = args.seqs.cu_seqlens.data<int64_t>();
  const Taps<T> taps(args.taps);
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    const int64_t from = args.seqs.start_slots.data<int64_t>()[s];
    const int64_t to = args.seqs.end_slots.data<int64_t>()[s];
    Row<T> dstate(static_cast<size_t>(remembered), T(0));
    if (args.dpool && to >= 0) {
      T* dend = args.dpool.data<T>() + to * remembered;
      std::copy_n(dend, remembered, dstate.begin());
      std::fill_n(dend, remembered, T(0));
    }
    for (int64_t t = cu[s + 1] - 1; t >= cu[s]; --t) {
      const T* inner = args.inner.data<T>() + t * inner_rows(args.cell) * d_inner;
      const T* before = args.before.data<T>() + t * remembered;
      T* da = Matrix<T>(args.da).row(t);
      T* dm = args.dm.data<T>() + t * gates;
      for (int64_t e = 0; e < d_inner; ++e) {
        const Channel<T> channel = {taps, d_inner, e, t * d_inner + e};
        const T dh = Matrix<T>(args.dh)(t, e) + dstate[static_cast<size_t>(e)];
        if (args.cell == Cell::rnn) channel.rnn_back(inner, dh, da, dm, dstate.data());
        else if (args.cell == Cell::lstm)
          channel.lstm_back(inner, before, dh, da, dm, dstate.data());
        else channel.gru_back(inner, before, dh, da, dm, dstate.data());
      }
      for (int64_t k = 0; k < d_inner; ++k) {
        double sum = dstate[static_cast<size_t>(k)];
        for (int64_t j = 0; j < gates; ++j) {
          sum += double(weight.data<T>()[j * d_inner + k]) * dm[j];
        }
        dstate[static_cast<size_t>(k)] = static_cast<T>(sum);
      }
    }
    for (int64_t i = 0; args.dpool && from >= 0 && i < remembered; ++i) {
      args.dpool.data<T>()[from * remembered + i] += dstate[static_cast<size_t>(i)];
    }
  }
}

}  // namespace

template <class T>
void add_recurrent(KernelTable& table) {
  table.set<RecurrentForward>(recurrent_forward<T>);
  table.set<RecurrentBackward>(recurrent_backward<T>);
}
template void add_recurrent<float>(KernelTable&);
template void add_recurrent<double>(KernelTable&);

}  // namespace elapse::ref

// SPDX-License-Identifier: Apache-2.0
// A block of channels of a diagonal state space, as many as a vector has lanes: what its kernels
// load, store and run. Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_BLOCK_INL_H_
#undef ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_BLOCK_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "elapse/backends/cpu/diagonal_ssm-inl.h"
#include "elapse/backends/cpu/long_conv-inl.h"
#include "elapse/backends/cpu/taps.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

// A block's memory, in vectors: coefficients and states, then rows of tokens.
struct Scratch {
  explicit Scratch(float* memory) : next(memory) {}
  float* Take(int64_t vectors) {
    float* taken = next;
    next += vectors * LaneCount();
    return taken;
  }
  float* next;
};

// The channels from e on that a vector holds.
struct Block {
  const DiagonalSsmInputs& in;
  int64_t e;

  int64_t channels() const { return std::min(LaneCount(), in.d_inner() - e); }
  int64_t length(int64_t s) const { return in.seqs.lengths[static_cast<size_t>(s)]; }
  int64_t begin(int64_t s) const { return in.seqs.cu_seqlens.data<int64_t>()[s]; }
  int64_t slot() const { return in.d_inner() * in.d_state(); }
  // Where channel e + i's state n begins in a row of d_inner d_state numbers.
  int64_t number(int64_t i, int64_t n) const {
    return (e + i) * in.d_state() + (in.is_complex() ? 2 * n : n);
  }

  // Channels of parameter p (d_inner, n_states, ...), `step` numbers a state, as a vector.
  V Gather(const Tensor& p, int64_t n, int64_t step = 1, int64_t offset = 0) const {
    HWY_ALIGN float values[hn::MaxLanes(D())] = {};
    for (int64_t i = 0; i < channels(); ++i) {
      values[i] = p.data<float>()[((e + i) * in.n_states() + n) * step + offset];
    }
    return hn::Load(D(), values);
  }

  // (tokens, lanes) of a sequence's rows; other lanes are zeros.
  void LoadRows(const Tensor& t, int64_t s, float* to) const {
    WithLanes(e, in.d_inner(), [&](auto lanes) HWY_ATTR {
      for (int64_t i = 0; i < length(s); ++i) {
        hn::Store(lanes.load(row(t, begin(s) + i) + e), D(), to + i * LaneCount());
      }
    });
  }
  void StoreRows(const float* from, int64_t s, const Tensor& t) const {
    WithLanes(e, in.d_inner(), [&](auto lanes) HWY_ATTR {
      for (int64_t i = 0; i < length(s); ++i) {
        lanes.store(hn::Load(D(), from + i * LaneCount()), row(t, begin(s) + i) + e);
      }
    });
  }

  // States (n_states, 2, lanes) from rows of d_state numbers a channel, and back.
  void LoadStates(const float* from, float* h) const {
    const int64_t lanes = LaneCount();
    for (int64_t n = 0; n < in.n_states(); ++n) {
      for (int64_t i = 0; i < channels(); ++i) {
        h[2 * n * lanes + i] = from[number(i, n)];
        if (in.is_complex()) h[(2 * n + 1) * lanes + i] = from[number(i, n) + 1];
      }
    }
  }
  template <class Put>
  void ForEachState(const float* h, Put&& put) const {
    const int64_t lanes = LaneCount();
    for (int64_t n = 0; n < in.n_states(); ++n) {
      for (int64_t i = 0; i < channels(); ++i) {
        put(number(i, n), h[2 * n * lanes + i]);
        if (in.is_complex()) put(number(i, n) + 1, h[(2 * n + 1) * lanes + i]);
      }
    }
  }

  void Coefficients(float* to) const {
    WithLanes(e, in.d_inner(), [&](auto lanes) HWY_ATTR {
      const V one = hn::Set(D(), 1.0f), dt = lanes.load_or(one, in.dt.data<float>() + e);
      for (int64_t n = 0; n < in.n_states(); ++n, to += kStateParts * LaneCount()) {
        const V rest = lanes.keep(hn::Neg(one));  // lanes without a channel get A = -1
        const V re = hn::Add(Gather(in.A_real, n), hn::Sub(hn::Neg(one), rest));
        const Complex A = {re, in.is_complex() ? Gather(in.A_imag, n) : hn::Zero(D())};
        Complex A_bar, B_bar;
        Discretise(A, dt, in.is_complex(), A_bar, B_bar);
        Complex C = {Gather(in.C, n), hn::Zero(D())};
        if (in.is_complex()) {
          const Complex once = {Gather(in.C, n, 2, 0), Gather(in.C, n, 2, 1)};
          C = Add(once, once);
        }
        StorePart(A_bar, to, kABar);
        StorePart(B_bar, to, kBBar);
        StorePart(C, to, kC);
      }
    });
  }

  // The answer to a single 1, with D's part: (len, lanes). `impulse`: (len, lanes), assigned.
  void Filter(const float* coefficients, int64_t len, float* impulse, float* h,
              float* filter) const {
    std::fill_n(impulse, len * LaneCount(), 0.0f);
    std::fill_n(impulse, LaneCount(), 1.0f);
    std::fill_n(filter, len * LaneCount(), 0.0f);
    std::fill_n(h, 2 * in.n_states() * LaneCount(), 0.0f);
    WithLanes(e, in.d_inner(), [&](auto lanes) HWY_ATTR {
      hn::Store(lanes.load(in.D.data<float>() + e), D(), filter);
    });
    Run(coefficients, len, impulse, filter, h);
  }

  void Run(const float* coefficients, int64_t len, const float* x, float* y, float* h) const {
    if (in.is_complex()) RunAllStates<true>(coefficients, in.n_states(), len, x, y, h);
    else RunAllStates<false>(coefficients, in.n_states(), len, x, y, h);
  }

  // to[t] = D from[t] for a sequence, (len, lanes)
  void Skip(const float* from, int64_t len, float* to) const {
    WithLanes(e, in.d_inner(), [&](auto lanes) HWY_ATTR {
      const V skip = lanes.load(in.D.data<float>() + e);
      for (int64_t at = 0; at < len * LaneCount(); at += LaneCount()) {
        hn::Store(hn::Mul(skip, hn::Load(D(), from + at)), D(), to + at);
      }
    });
  }
};

// The tap of h as token t of the packed tokens and state n meet it.
struct StateTap {
  const Block& block;
  const Tap& tap;
  int64_t n;

  template <class Change>
  void Each(int64_t t, Complex& value, Change&& change) const {
    HWY_ALIGN float parts[2][hn::MaxLanes(D())];
    hn::Store(value.re, D(), parts[0]);
    hn::Store(value.im, D(), parts[1]);
    const int64_t count = block.in.is_complex() ? 2 : 1;
    for (int64_t i = 0; i < block.channels(); ++i) {
      for (int64_t p = 0; p < count; ++p) {
        parts[p][i] = change(t * block.slot() + block.number(i, n) + p, parts[p][i]);
      }
    }
    value = {hn::Load(D(), parts[0]), hn::Load(D(), parts[1])};
  }
  // Whether an edit changed anything.
  bool Pass(int64_t t, Complex& h) const {
    bool changed = false;
    Each(t, h, [&](int64_t at, float value) {
      const float passed = through_tap(tap, at, value);
      const bool same = passed == value || (std::isnan(passed) && std::isnan(value));
      changed = changed || !same;
      return passed;
    });
    return changed;
  }
  void PassBack(int64_t t, Complex& dh) const {
    Each(t, dh, [&](int64_t at, float value) { return back_through_tap(tap, at, value); });
  }
};

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// SPDX-License-Identifier: Apache-2.0
// What the SSD's two directions share: step sizes and cumulated exponents of decays, B and C in
// rows of their own, C B^T. Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_SSD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_SSD_INL_H_
#undef ELAPSE_BACKENDS_CPU_SSD_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_SSD_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <vector>

#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/product.h"
#include "elapse/backends/cpu/simd_math-inl.h"
#include "elapse/backends/cpu/ssd_plan.h"
#include "elapse/backends/cpu/taps.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Exponents of decays from a chunk's start, a[i] = the sum of dt A up to row i. A decay between
// two rows is exp of a difference: sums reach 1e5 and more where differences are below 1, so they
// are made in double and kept as two floats, whose differences are as exact as float has them.
struct Exponents {
  const float* high;
  const float* low;
};

HWY_INLINE V Decay(D d, V high_i, V low_i, V high_j, V low_j) {
  return Exp(d, hn::Add(hn::Sub(high_i, high_j), hn::Sub(low_i, low_j)));
}

// The decay from the chunk's start to the row of these exponents.
HWY_INLINE float DecayOf(Exponents a) {
  const D d;
  const V zero = hn::Zero(d);
  return hn::GetLane(Decay(d, hn::Set(d, *a.high), hn::Set(d, *a.low), zero, zero));
}

// What all heads and both directions start from, in the plan's rows.
class SsdShared {
 public:
  SsdShared(Device& device, const SsdInputs& in, const SsdPlan& plan, const SsdTaps& taps)
      : in_(in),
        plan_(plan),
        taps_(taps),
        square_(divide_up(in.chunk, kSsdRows) * kSsdRows),
        n_(in.d_state()),
        dt_(device.empty(DType::f32, {in.n_heads(), plan.rows})),
        high_(device.empty(DType::f32, {in.n_heads(), plan.rows})),
        low_(device.empty(DType::f32, {in.n_heads(), plan.rows})),
        B_(device.empty(DType::f32, {in.n_groups * plan.rows, n_})),
        C_(device.empty(DType::f32, {in.n_groups * plan.rows, n_})),
        CB_(device.empty(DType::f32,
                         {plan.chunks.empty() ? 0 : in.n_groups * plan.rows, square_})) {
    const auto chunks = static_cast<int64_t>(plan.chunks.size());
    const int threads = ssd_threads(device, in);
    parallel_for(chunks, threads, [&](int64_t i) HWY_ATTR { exponents(chunk(i)); });
    parallel_for(chunks * in.n_groups, threads,
                 [&](int64_t i) { matrices(chunk(i / in.n_groups), i % in.n_groups); });
    for (const SsdSequence& s : plan.singles) {
      const int64_t token = in.seqs.cu_seqlens.data<int64_t>()[s.index];
      exponents({token, 1, s.row, 1});
    }
  }

  const SsdChunk& chunk(int64_t i) const { return plan_.chunks[static_cast<size_t>(i)]; }
  int64_t square() const { return square_; }  // the distance of CB's rows
  const float* dt(int64_t head, int64_t r) const { return row(dt_, head) + r; }
  Exponents exponents(int64_t head, int64_t r) const {
    return {row(high_, head) + r, row(low_, head) + r};
  }
  const float* B(int64_t group, int64_t r) const { return row(B_, group * plan_.rows + r); }
  const float* C(int64_t group, int64_t r) const { return row(C_, group * plan_.rows + r); }
  const float* CB(int64_t group, int64_t r) const { return row(CB_, group * plan_.rows + r); }

 private:
  // dt of one token, for every head.
  void step_sizes(int64_t token, float* dt) const {
    const D d;
    const int64_t n_heads = in_.n_heads();
    const Tap& pre_tap = tap(taps_, SsdPoint::dt_pre);
    const Tap& dt_tap = tap(taps_, SsdPoint::dt);
    const float* raw = row(in_.dt_raw, token);
    const float* bias = in_.dt_bias.data<float>();
    ForLanes(d, n_heads, [&](int64_t k, auto lanes) HWY_ATTR {
      lanes.store(hn::Add(lanes.load(raw + k), lanes.load(bias + k)), dt + k);
    });
    through(pre_tap, token * n_heads, n_heads, dt);
    const V least = hn::Set(d, static_cast<float>(in_.dt_min));
    const V most = hn::Set(d, static_cast<float>(in_.dt_max));
    ForLanes(d, n_heads, [&](int64_t k, auto lanes) HWY_ATTR {
      const V v = Softplus(d, lanes.load(dt + k));
      const V low = hn::IfThenElse(hn::Lt(v, least), least, v);  // NaN stays
      lanes.store(hn::IfThenElse(hn::Gt(low, most), most, low), dt + k);
    });
    through(dt_tap, token * n_heads, n_heads, dt);
  }

  static void through(const Tap& tap, int64_t first, int64_t count, float* values) {
    if (!tap.is_active_forward()) return;
    for (int64_t i = 0; i < count; ++i) values[i] = through_tap(tap, first + i, values[i]);
  }

  void exponents(const SsdChunk& c) {
    const int64_t n_heads = in_.n_heads();
    std::vector<float> dt(static_cast<size_t>(n_heads));
    std::vector<double> sums(static_cast<size_t>(n_heads), 0.0);
    const float* A = in_.A.data<float>();
    for (int64_t i = 0; i < c.rows; ++i) {
      if (i < c.len) step_sizes(c.token + i, dt.data());
      else std::fill(dt.begin(), dt.end(), 0.0f);
      for (int64_t k = 0; k < n_heads; ++k) {
        double& sum = sums[static_cast<size_t>(k)];
        const float step = dt[static_cast<size_t>(k)];
        sum += double(step) * A[k];
        const auto high = static_cast<float>(sum);
        row(dt_, k)[c.row + i] = step;
        row(high_, k)[c.row + i] = high;
        row(low_, k)[c.row + i] = static_cast<float>(sum - high);
      }
    }
  }

  void matrices(const SsdChunk& c, int64_t group) {
    const int64_t first = group * plan_.rows + c.row;
    copy_rows(in_.B, c, group, row(B_, first));
    copy_rows(in_.C, c, group, row(C_, first));
    multiply({.m = c.rows,
              .n = c.rows,
              .k = n_,
              .a = {n_, 1},
              .b = {1, n_},
              .c_row = square_,
              .accumulates = false},
             row(C_, first), row(B_, first), row(CB_, first));
  }

  void copy_rows(const Tensor& from, const SsdChunk& c, int64_t group, float* to) const {
    for (int64_t i = 0; i < c.len; ++i) {
      std::copy_n(row(from, c.token + i) + group * n_, n_, to + i * n_);
    }
    std::fill_n(to + c.len * n_, (c.rows - c.len) * n_, 0.0f);
  }

  const SsdInputs& in_;
  const SsdPlan& plan_;
  const SsdTaps& taps_;
  int64_t square_, n_;
  Tensor dt_, high_, low_;  // (n_heads, rows)
  Tensor B_, C_;            // (n_groups rows, d_state)
  Tensor CB_;               // (n_groups rows, square): within chunks, row i column j is C_i B_j
};

// product[i][j] = CB[i][j] exp(a[i] - a[j]) for j <= i, else 0.
inline void DecayedSquare(const float* CB, Exponents a, int64_t rows, int64_t stride,
                          float* product) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < rows; ++i) {
    const V high = hn::Set(d, a.high[i]), low = hn::Set(d, a.low[i]);
    int64_t j = 0;
    for (; j + lanes <= i + 1; j += lanes) {
      const V decay = Decay(d, high, low, hn::LoadU(d, a.high + j), hn::LoadU(d, a.low + j));
      hn::StoreU(hn::Mul(decay, hn::LoadU(d, CB + i * stride + j)), d, product + i * stride + j);
    }
    if (j <= i) {
      const FirstLanes<D> first{d, static_cast<size_t>(i + 1 - j)};
      const V decay = Decay(d, high, low, first.load(a.high + j), first.load(a.low + j));
      first.store(hn::Mul(decay, first.load(CB + i * stride + j)), product + i * stride + j);
      j = i + 1;
    }
    std::fill_n(product + i * stride + j, rows - j, 0.0f);
  }
}

// since_start[i] = exp(a[i]); until_end[i] = exp(a[rows - 1] - a[i])
inline void DecaysToEdges(Exponents a, int64_t rows, float* since_start, float* until_end) {
  const D d;
  const V zero = hn::Zero(d), high = hn::Set(d, a.high[rows - 1]),
          low = hn::Set(d, a.low[rows - 1]);
  ForLanes(d, rows, [&](int64_t i, auto lanes) HWY_ATTR {
    const V high_i = lanes.load(a.high + i), low_i = lanes.load(a.low + i);
    lanes.store(Decay(d, high_i, low_i, zero, zero), since_start + i);
    lanes.store(Decay(d, high, low, high_i, low_i), until_end + i);
  });
}

// D of a head's channels: one number for each, or for all.
struct SkipOfHead {
  SkipOfHead(const SsdInputs& in, int64_t head)
      : by_channel(in.D.numel() != in.n_heads()),
        data(in.D.data<float>() + (by_channel ? head * in.head_dim() : head)) {}

  template <class Lanes>
  HWY_INLINE V at(int64_t i, Lanes lanes) const {
    return by_channel ? lanes.load(data + i) : hn::Set(D(), *data);
  }

  bool by_channel;
  const float* data;
};

inline void ScaleBy(float factor, int64_t count, float* values) {
  const D d;
  const V f = hn::Set(d, factor);
  ForLanes(d, count, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(hn::Mul(f, lanes.load(values + i)), values + i);
  });
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// SPDX-License-Identifier: Apache-2.0
// The gradient of one state at one token. Included once per target, after selective_scan-inl.h.
#if defined(ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_GRADIENT_INL_H_
#undef ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_GRADIENT_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_GRADIENT_INL_H_
#endif

#include "elapse/backends/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

// Sums over the states of one token.
struct TokenSums {
  V write_B;     // dwrite B
  V exponent_A;  // d(dt A) A log2(e)
  V dx, ddt;     // through an edited B_bar
};

// Where the block's states of one token stand. Kept in locals, as stores could change members.
struct StatePlace {
  const float *A, *h_before, *decay;  // (kStates, kLanes)
  const float *B, *C;                 // (kStates)
  float *dB, *dC;                     // (kStates, kLanes): sums over vectors

  HWY_INLINE StatePlace state(int n) const {
    const int64_t at = n * kLanes;
    return {A + at, h_before + at, decay + at, B + n, C + n, dB + at, dC + at};
  }
};

// sum += a b
HWY_INLINE void Accumulate(V a, V b, float* sum) {
  hn::Store(hn::MulAdd(a, b, hn::Load(D(), sum)), D(), sum);
}

template <bool kTaps>
HWY_INLINE void WriteBack(const StateAt<kTaps>& at, const StatePlace& p, const TokenValues& in,
                          V dwrite, TokenSums& sums) {
  const V B = hn::Set(D(), *p.B);
  if (!at.taps.edits(ScanPoint::B_bar)) {
    at.back(ScanPoint::B_bar, hn::Mul(dwrite, in.x));  // to be written down
    Accumulate(dwrite, in.dtx, p.dB);
    sums.write_B = hn::MulAdd(dwrite, B, sums.write_B);
    return;
  }
  const V B_bar = at.through(ScanPoint::B_bar, hn::Mul(in.dt, B));
  const V dB_bar = at.back(ScanPoint::B_bar, hn::Mul(dwrite, in.x));
  Accumulate(dB_bar, in.dt, p.dB);
  sums.dx = hn::MulAdd(dwrite, B_bar, sums.dx);
  sums.ddt = hn::MulAdd(dB_bar, B, sums.ddt);
}

// dh enters as what later tokens send and leaves as what this one sends to the token before; h
// enters as the state after this token and leaves as that before.
template <bool kTaps>
HWY_INLINE void StateBack(const StateAt<kTaps>& at, const StatePlace& p, const TokenValues& in,
                          V dy, V& h, V& dh, V& dA, TokenSums& sums) {
  const D d;
  const V A = hn::Load(d, p.A), decay = hn::Load(d, p.decay);
  Accumulate(dy, at.through(ScanPoint::readout_h, h), p.dC);
  h = hn::Load(d, p.h_before);
  if constexpr (kTaps) {
    const V C = hn::Set(d, *p.C), dreadout_h = hn::Mul(dy, C);
    const V passed = at.back(ScanPoint::readout_h, dreadout_h);
    const V plain = hn::MulAdd(dy, C, dh);
    dh = at.back(ScanPoint::h,
                 hn::IfThenElse(hn::Eq(passed, dreadout_h), plain, hn::Add(dh, passed)));
  } else {
    dh = hn::MulAdd(dy, hn::Set(d, *p.C), dh);
  }
  WriteBack(at, p, in, at.back(ScanPoint::write, dh), sums);
  const V carried = hn::Mul(dh, decay);
  V dexponent = hn::Mul(carried, h);
  if constexpr (kTaps) {
    const V ddecay = at.back(ScanPoint::decay, hn::Mul(dh, h));
    if (at.taps.edits(ScanPoint::decay)) dexponent = hn::Mul(ddecay, Exp2OfProduct(d, in.dt, A));
  }
  dA = hn::MulAdd(dexponent, in.dt, dA);
  sums.exponent_A = hn::MulAdd(dexponent, A, sums.exponent_A);
  dh = carried;
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

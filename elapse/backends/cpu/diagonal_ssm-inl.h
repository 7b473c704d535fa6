// SPDX-License-Identifier: Apache-2.0
// The recurrence of diagonal state spaces for a block of channels, as many as a vector has lanes:
// a state of all of them goes through a whole sequence before the next state does, its numbers and
// coefficients in registers. Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_INL_H_
#undef ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_DIAGONAL_SSM_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/fourier-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"
#include "elapse/ops/diagonal_ssm.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

// What stands of a state in memory, a vector each: the coefficients, C with the 2 of a conjugate
// pair, and alike their gradients. Imaginary parts of real states are not used.
enum StatePart { kABar, kABarImag, kBBar, kBBarImag, kC, kCImag, kStateParts };

HWY_INLINE Complex LoadPart(const float* state, int part) {
  return {hn::Load(D(), state + part * LaneCount()),
          hn::Load(D(), state + (part + 1) * LaneCount())};
}
HWY_INLINE void StorePart(Complex c, float* state, int part) {
  hn::Store(c.re, D(), state + part * LaneCount());
  hn::Store(c.im, D(), state + (part + 1) * LaneCount());
}

// A_bar and B_bar of states with `A` and `dt`. A_bar - 1 is made first: where dt A is small, it
// would be lost in A_bar.
HWY_INLINE void Discretise(Complex A, V dt, bool is_complex, Complex& A_bar, Complex& B_bar) {
  const V one = hn::Set(D(), 1.0f), two = hn::Set(D(), 2.0f);
  const V exponent = hn::Mul(dt, A.re);
  const V above_one = hn::Expm1(D(), exponent);
  if (!is_complex) {
    A_bar = {hn::Add(one, above_one), hn::Zero(D())};
    B_bar = {hn::Div(above_one, A.re), hn::Zero(D())};
    return;
  }
  const V size = hn::Add(one, above_one);
  const V half_angle = hn::Mul(hn::Set(D(), 0.5f), hn::Mul(dt, A.im));
  const V sine = hn::Sin(D(), half_angle), cosine = hn::Cos(D(), half_angle);
  const V lost = hn::Mul(two, hn::Mul(size, hn::Mul(sine, sine)));  // size (1 - cos angle)
  const Complex rest = {hn::Sub(above_one, lost),
                        hn::Mul(hn::Mul(two, size), hn::Mul(sine, cosine))};
  A_bar = {hn::Add(one, rest.re), rest.im};
  const V square = hn::MulAdd(A.re, A.re, hn::Mul(A.im, A.im));
  const Complex product = MulConjugate(rest, A);
  B_bar = {hn::Div(product.re, square), hn::Div(product.im, square)};
}

// A_bar h + B_bar x
template <bool kComplex>
HWY_INLINE Complex NextState(Complex A_bar, Complex B_bar, Complex h, V x) {
  if constexpr (!kComplex) return {hn::MulAdd(A_bar.re, h.re, hn::Mul(B_bar.re, x)), h.im};
  return {hn::MulAdd(A_bar.re, h.re, hn::NegMulAdd(A_bar.im, h.im, hn::Mul(B_bar.re, x))),
          hn::MulAdd(A_bar.re, h.im, hn::MulAdd(A_bar.im, h.re, hn::Mul(B_bar.im, x)))};
}
template <bool kComplex>
HWY_INLINE V AddReading(Complex C, Complex h, V y) {
  y = hn::MulAdd(C.re, h.re, y);
  return kComplex ? hn::NegMulAdd(C.im, h.im, y) : y;
}

// y += what is read of kTogether states over `len` tokens of x; h, (states, 2, lanes), moves from
// before the first to the last. pass(t, i, h) sees and may change the i-th state's h.
template <bool kComplex, int kTogether, class Pass>
HWY_INLINE void RunStates(const float* coefficients, int64_t len, const float* x, float* y,
                          float* h, Pass&& pass) {
  const int64_t lanes = LaneCount();
  Complex A_bar[kTogether], B_bar[kTogether], C[kTogether], now[kTogether];
  HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) {
    const float* state = coefficients + i * kStateParts * lanes;
    A_bar[i] = LoadPart(state, kABar);
    B_bar[i] = LoadPart(state, kBBar);
    C[i] = LoadPart(state, kC);
    now[i] = LoadComplex(h, i);
  }
  for (int64_t t = 0; t < len; ++t) {
    const V in = hn::Load(D(), x + t * lanes);
    V out = hn::Load(D(), y + t * lanes);
    HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) {
      now[i] = NextState<kComplex>(A_bar[i], B_bar[i], now[i], in);
      pass(t, i, now[i]);
      out = AddReading<kComplex>(C[i], now[i], out);
    }
    hn::Store(out, D(), y + t * lanes);
  }
  HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) StoreComplex(now[i], h, i);
}

// As many together as their chains need to overlap and registers hold.
template <bool kComplex>
inline void RunAllStates(const float* coefficients, int64_t n_states, int64_t len, const float* x,
                         float* y, float* h) {
  constexpr int kTogether = kComplex ? 2 : 4;
  const int64_t lanes = LaneCount();
  const auto nothing = [](int64_t, int, Complex&) HWY_ATTR {};
  int64_t n = 0;
  for (; n + kTogether <= n_states; n += kTogether) {
    RunStates<kComplex, kTogether>(coefficients + n * kStateParts * lanes, len, x, y,
                                   h + 2 * n * lanes, nothing);
  }
  for (; n < n_states; ++n) {
    RunStates<kComplex, 1>(coefficients + n * kStateParts * lanes, len, x, y, h + 2 * n * lanes,
                           nothing);
  }
}

// h of every token of one state, after that before the first: kept, (len + 1, 2, lanes).
template <bool kComplex, class Pass>
inline void KeepState(const float* coefficients, int64_t len, const float* x, float* kept,
                      Pass&& pass) {
  const int64_t lanes = LaneCount();
  const Complex A_bar = LoadPart(coefficients, kABar), B_bar = LoadPart(coefficients, kBBar);
  Complex h = LoadComplex(kept, 0);
  for (int64_t t = 0; t < len; ++t) {
    h = NextState<kComplex>(A_bar, B_bar, h, hn::Load(D(), x + t * lanes));
    pass(t, h);
    StoreComplex(h, kept, t + 1);
  }
}

// Backward through one state: dh, (2, lanes), moves from after the last token to before the first;
// dx and the coefficients' gradients, as they stand, are added to. A complex number's gradient is
// those of its parts: it goes back through a product by the conjugate of the other factor.
template <bool kComplex, class PassBack>
inline void BackThroughState(const float* coefficients, int64_t len, const float* x,
                             const float* dy, const float* kept, float* dx, float* dh,
                             float* gradients, PassBack&& pass_back) {
  const int64_t lanes = LaneCount();
  const Complex A_bar = LoadPart(coefficients, kABar), B_bar = LoadPart(coefficients, kBBar);
  const Complex C = LoadPart(coefficients, kC);
  Complex dA = LoadPart(gradients, kABar), dB = LoadPart(gradients, kBBar);
  Complex dC = LoadPart(gradients, kC);
  Complex d = LoadComplex(dh, 0);
  Complex after = LoadComplex(kept, len);
  for (int64_t t = len - 1; t >= 0; --t) {
    const V out = hn::Load(D(), dy + t * lanes), in = hn::Load(D(), x + t * lanes);
    const Complex before = LoadComplex(kept, t);
    dC.re = hn::MulAdd(out, after.re, dC.re);
    d.re = hn::MulAdd(out, C.re, d.re);
    if constexpr (kComplex) {
      dC.im = hn::NegMulAdd(out, after.im, dC.im);
      d.im = hn::NegMulAdd(out, C.im, d.im);
    }
    pass_back(t, d);
    dB.re = hn::MulAdd(d.re, in, dB.re);
    dA.re = hn::MulAdd(d.re, before.re, dA.re);
    V share = hn::MulAdd(B_bar.re, d.re, hn::Load(D(), dx + t * lanes));
    if constexpr (kComplex) {
      dB.im = hn::MulAdd(d.im, in, dB.im);
      dA.re = hn::MulAdd(d.im, before.im, dA.re);
      dA.im = hn::MulAdd(d.im, before.re, hn::NegMulAdd(d.re, before.im, dA.im));
      share = hn::MulAdd(B_bar.im, d.im, share);
      d = MulConjugate(d, A_bar);
    } else {
      d.re = hn::Mul(d.re, A_bar.re);
    }
    hn::Store(share, D(), dx + t * lanes);
    after = before;
  }
  StoreComplex(d, dh, 0);
  StorePart(dA, gradients, kABar);
  StorePart(dB, gradients, kBBar);
  StorePart(dC, gradients, kC);
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

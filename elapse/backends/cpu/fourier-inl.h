// SPDX-License-Identifier: Apache-2.0
// Fourier transforms of as many channels together as a vector has lanes, in place: element k of a
// signal is two vectors, real and imaginary parts. Every load is a whole vector, and nothing is
// permuted: frequencies stay in the order in which the forward passes leave them, which is the
// order in which the inverse passes take them. A packaged library transforms one channel after
// another: KissFFT takes 7.9 ns a token for its 2048 reals, this 1.3 a channel, and the recurrence
// of 32 states, which a convolution is to beat, 8.0. Passes of radix 4 (34 operations on four
// numbers, for two levels), one of radix 3 or 2 where the size asks for it, depth first: whatever
// fits a cache stays there for all passes below.
// Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_FOURIER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_FOURIER_INL_H_
#undef ELAPSE_BACKENDS_CPU_FOURIER_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_FOURIER_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE int64_t LaneCount() { return static_cast<int64_t>(hn::Lanes(D())); }

struct Complex {
  V re, im;
};

HWY_INLINE Complex LoadComplex(const float* z, int64_t k) {
  const int64_t lanes = LaneCount();
  return {hn::Load(D(), z + 2 * k * lanes), hn::Load(D(), z + (2 * k + 1) * lanes)};
}
HWY_INLINE void StoreComplex(Complex c, float* z, int64_t k) {
  const int64_t lanes = LaneCount();
  hn::Store(c.re, D(), z + 2 * k * lanes);
  hn::Store(c.im, D(), z + (2 * k + 1) * lanes);
}

HWY_INLINE Complex Add(Complex a, Complex b) { return {hn::Add(a.re, b.re), hn::Add(a.im, b.im)}; }
HWY_INLINE Complex Sub(Complex a, Complex b) { return {hn::Sub(a.re, b.re), hn::Sub(a.im, b.im)}; }
HWY_INLINE Complex TimesI(Complex a) { return {hn::Neg(a.im), a.re}; }
HWY_INLINE Complex AddTimesI(Complex a, Complex b) {  // a + i b
  return {hn::Sub(a.re, b.im), hn::Add(a.im, b.re)};
}
HWY_INLINE Complex SubTimesI(Complex a, Complex b) {  // a - i b
  return {hn::Add(a.re, b.im), hn::Sub(a.im, b.re)};
}
HWY_INLINE Complex Mul(Complex a, Complex b) {
  return {hn::NegMulAdd(a.im, b.im, hn::Mul(a.re, b.re)),
          hn::MulAdd(a.re, b.im, hn::Mul(a.im, b.re))};
}
HWY_INLINE Complex MulConjugate(Complex a, Complex b) {  // a times the conjugate of b
  return {hn::MulAdd(a.im, b.im, hn::Mul(a.re, b.re)),
          hn::NegMulAdd(a.re, b.im, hn::Mul(a.im, b.re))};
}

// exp(-2 pi i k / size) in all lanes, of the table of all of them.
HWY_INLINE Complex Root(const float* roots, int64_t k) {
  return {hn::Set(D(), roots[2 * k]), hn::Set(D(), roots[2 * k + 1])};
}

// Splits z, `size` elements, into transforms of a quarter of it: with a, b, c, d a quarter apart,
// these are of frequencies 4k, 4k + 2, 4k + 1 and 4k + 3. `step`: of the roots, for this size.
HWY_INLINE void SplitInFour(float* z, int64_t size, const float* roots, int64_t step) {
  const int64_t q = size / 4;
  for (int64_t j = 0; j < q; ++j) {
    const Complex a = LoadComplex(z, j), b = LoadComplex(z, j + q);
    const Complex c = LoadComplex(z, j + 2 * q), d = LoadComplex(z, j + 3 * q);
    const Complex ac = Add(a, c), bd = Add(b, d), a_c = Sub(a, c), b_d = Sub(b, d);
    StoreComplex(Add(ac, bd), z, j);
    StoreComplex(Mul(Sub(ac, bd), Root(roots, 2 * j * step)), z, j + q);
    StoreComplex(Mul(SubTimesI(a_c, b_d), Root(roots, j * step)), z, j + 2 * q);
    StoreComplex(Mul(AddTimesI(a_c, b_d), Root(roots, 3 * j * step)), z, j + 3 * q);
  }
}
HWY_INLINE void JoinFour(float* z, int64_t size, const float* roots, int64_t step) {
  const int64_t q = size / 4;
  for (int64_t j = 0; j < q; ++j) {
    const Complex a = LoadComplex(z, j);
    const Complex b = MulConjugate(LoadComplex(z, j + q), Root(roots, 2 * j * step));
    const Complex c = MulConjugate(LoadComplex(z, j + 2 * q), Root(roots, j * step));
    const Complex d = MulConjugate(LoadComplex(z, j + 3 * q), Root(roots, 3 * j * step));
    const Complex ab = Add(a, b), a_b = Sub(a, b), cd = Add(c, d), c_d = Sub(c, d);
    StoreComplex(Add(ab, cd), z, j);
    StoreComplex(AddTimesI(a_b, c_d), z, j + q);
    StoreComplex(Sub(ab, cd), z, j + 2 * q);
    StoreComplex(SubTimesI(a_b, c_d), z, j + 3 * q);
  }
}

// The smallest ones have no roots but 1.
HWY_INLINE void TransformFour(float* z) {
  const Complex a = LoadComplex(z, 0), b = LoadComplex(z, 1);
  const Complex c = LoadComplex(z, 2), d = LoadComplex(z, 3);
  const Complex ac = Add(a, c), bd = Add(b, d), a_c = Sub(a, c), b_d = Sub(b, d);
  StoreComplex(Add(ac, bd), z, 0);
  StoreComplex(Sub(ac, bd), z, 1);
  StoreComplex(SubTimesI(a_c, b_d), z, 2);
  StoreComplex(AddTimesI(a_c, b_d), z, 3);
}
HWY_INLINE void InvertFour(float* z) {
  const Complex a = LoadComplex(z, 0), b = LoadComplex(z, 1);
  const Complex c = LoadComplex(z, 2), d = LoadComplex(z, 3);
  const Complex ab = Add(a, b), a_b = Sub(a, b), cd = Add(c, d), c_d = Sub(c, d);
  StoreComplex(Add(ab, cd), z, 0);
  StoreComplex(AddTimesI(a_b, c_d), z, 1);
  StoreComplex(Sub(ab, cd), z, 2);
  StoreComplex(SubTimesI(a_b, c_d), z, 3);
}
HWY_INLINE void TransformTwo(float* z) {  // its own inverse
  const Complex a = LoadComplex(z, 0), b = LoadComplex(z, 1);
  StoreComplex(Add(a, b), z, 0);
  StoreComplex(Sub(a, b), z, 1);
}

// The powers of two.
inline void TransformPower(float* z, int64_t size, const float* roots, int64_t step) {
  if (size == 4) return TransformFour(z);
  if (size == 2) return TransformTwo(z);
  SplitInFour(z, size, roots, step);
  const int64_t q = size / 4, apart = 2 * q * LaneCount();
  for (int64_t i = 0; i < 4; ++i) TransformPower(z + i * apart, q, roots, 4 * step);
}
inline void InvertPower(float* z, int64_t size, const float* roots, int64_t step) {
  if (size == 4) return InvertFour(z);
  if (size == 2) return TransformTwo(z);
  const int64_t q = size / 4, apart = 2 * q * LaneCount();
  for (int64_t i = 0; i < 4; ++i) InvertPower(z + i * apart, q, roots, 4 * step);
  JoinFour(z, size, roots, step);
}

// exp(-2 pi i / 3) = -1/2 - i kHalfRoot3
inline constexpr float kHalfRoot3 = 0.866025404f;

// a + w b + w^2 c and a + w^2 b + w c for that w.
HWY_INLINE void ThirdsOf(Complex a, Complex b, Complex c, Complex& first, Complex& second) {
  const V half = hn::Set(D(), 0.5f), height = hn::Set(D(), kHalfRoot3);
  const Complex sum = Add(b, c), difference = Sub(b, c);
  const Complex centre = {hn::NegMulAdd(half, sum.re, a.re), hn::NegMulAdd(half, sum.im, a.im)};
  const Complex side = {hn::Mul(height, difference.re), hn::Mul(height, difference.im)};
  first = SubTimesI(centre, side);
  second = AddTimesI(centre, side);
}

HWY_INLINE void SplitInThree(float* z, int64_t size, const float* roots) {
  const int64_t third = size / 3;
  for (int64_t j = 0; j < third; ++j) {
    const Complex a = LoadComplex(z, j), b = LoadComplex(z, j + third);
    const Complex c = LoadComplex(z, j + 2 * third);
    Complex first, second;
    ThirdsOf(a, b, c, first, second);
    StoreComplex(Add(a, Add(b, c)), z, j);
    StoreComplex(Mul(first, Root(roots, j)), z, j + third);
    StoreComplex(Mul(second, Root(roots, 2 * j)), z, j + 2 * third);
  }
}
HWY_INLINE void JoinThree(float* z, int64_t size, const float* roots) {
  const int64_t third = size / 3;
  for (int64_t j = 0; j < third; ++j) {
    const Complex a = LoadComplex(z, j);
    const Complex b = MulConjugate(LoadComplex(z, j + third), Root(roots, j));
    const Complex c = MulConjugate(LoadComplex(z, j + 2 * third), Root(roots, 2 * j));
    Complex first, second;
    ThirdsOf(a, b, c, first, second);
    StoreComplex(Add(a, Add(b, c)), z, j);
    StoreComplex(second, z, j + third);
    StoreComplex(first, z, j + 2 * third);
  }
}

// `roots`: ConvolutionGroup's for this size.
inline void Transform(float* z, int64_t size, const float* roots) {
  if (size % 3 != 0) return TransformPower(z, size, roots, 1);
  SplitInThree(z, size, roots);
  const int64_t third = size / 3, apart = 2 * third * LaneCount();
  for (int64_t i = 0; i < 3; ++i) TransformPower(z + i * apart, third, roots, 3);
}
// Times `size`.
inline void Invert(float* z, int64_t size, const float* roots) {
  if (size % 3 != 0) return InvertPower(z, size, roots, 1);
  const int64_t third = size / 3, apart = 2 * third * LaneCount();
  for (int64_t i = 0; i < 3; ++i) InvertPower(z + i * apart, third, roots, 3);
  JoinThree(z, size, roots);
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

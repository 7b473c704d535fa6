// SPDX-License-Identifier: Apache-2.0
// Exponentials and what is made of them, for vectors of float: included once per target, after
// hwy/highway.h. NaN stays NaN everywhere. Errors are relative and measured over all arguments
// whose result is a normal number; smaller results are 0.
#if defined(ELAPSE_BACKENDS_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_SIMD_MATH_INL_H_
#undef ELAPSE_BACKENDS_CPU_SIMD_MATH_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_SIMD_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <limits>

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Added to |v| < 2^21, leaves v rounded to an integer in the low bits of the sum.
inline constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23

// 2^n for the integer n in -126..128 that stands in the low bits of kRoundingMagic + n; 2^128 is
// infinity.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V PowerOfTwo(D d, V magic_plus_n) {
  const hn::RebindToSigned<D> di;
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, magic_plus_n));
  return hn::BitCast(d, hn::Add(exponent, hn::Set(di, 127 << 23)));
}

// c[0] + c[1] x + ... + c[kCount - 1] x^(kCount - 1), by Horner's rule.
template <class D, class V, size_t kCount>
HWY_INLINE V Polynomial(D d, V x, const float (&c)[kCount]) {
  V sum = hn::Set(d, c[kCount - 1]);
  for (size_t i = kCount - 1; i-- > 0;) sum = hn::MulAdd(sum, x, hn::Set(d, c[i]));
  return sum;
}

// e^x to 2e-7; infinity above 88.3, 0 below -87.3. Cody and Waite's reduction to |r| <= ln(2) / 2
// and the polynomial of Cephes' expf.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  constexpr float kHighest = 88.37f, kLowest = -87.3365f;
  constexpr float kCoefficients[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                                     8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
  const V magic = hn::Set(d, kRoundingMagic);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), magic);
  const V n = hn::Sub(shifted, magic);
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);   // ln 2 in two parts,
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);  // the first of few bits
  const V above_one = hn::MulAdd(Polynomial(d, r, kCoefficients), hn::Mul(r, r), r);
  const V power = PowerOfTwo(d, shifted);
  const V result = hn::MulAdd(above_one, power, power);
  const V not_small = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kLowest)), result);
  const V infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, kHighest)), infinity, not_small);
}

// ln(1 + u) for 0 <= u <= 1 to 2e-7: 2 atanh(s) with s = u / (2 + u), a series in s^2 <= 1/9.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pOfUnit(D d, V u) {
  constexpr float kCoefficients[] = {2.0f, 0.66666315f, 0.40024910f, 0.27960601f, 0.28178341f};
  const V s = hn::Div(u, hn::Add(u, hn::Set(d, 2.0f)));
  return hn::Mul(s, Polynomial(d, hn::Mul(s, s), kCoefficients));
}

// ln(1 + e^x) to 5e-7, x itself above 20.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  const V zero = hn::Zero(d);
  const V log = Log1pOfUnit(d, Exp(d, hn::Neg(hn::Abs(x))));
  const V sum = hn::Add(hn::IfThenElse(hn::Gt(x, zero), x, zero), log);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 20.0f)), x, sum);
}

// 1 / (1 + e^-x) to 4e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exp(d, hn::Neg(x))));
}

// d softplus(x) / dx: the sigmoid, 1 above 20.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SoftplusDerivative(D d, V x) {
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 20.0f)), hn::Set(d, 1.0f), Sigmoid(d, x));
}

// x sigmoid(x)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Silu(D d, V x) {
  return hn::Mul(x, Sigmoid(d, x));
}

// d silu(x) / dx for s = sigmoid(x): s (1 + x (1 - s))
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SiluDerivative(D d, V x, V s) {
  const V one = hn::Set(d, 1.0f);
  return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

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

// c[0] + c[1] x + ... + c[kCount - 1] x^(kCount - 1), by Horner's rule.
template <class D, class V, size_t kCount>
HWY_INLINE V Polynomial(D d, V x, const float (&c)[kCount]) {
  V sum = hn::Set(d, c[kCount - 1]);
  for (size_t i = kCount - 1; i-- > 0;) sum = hn::MulAdd(sum, x, hn::Set(d, c[i]));
  return sum;
}

// Added to |v| < 2^21, leaves v rounded to an integer in the low bits of the sum.
inline constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23
inline constexpr float kLog2e = 1.44269504f;
// ln 2 in two parts, the first of few bits so that its small multiples are exact.
inline constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// Here a power of two is split into its integer part, its sixteenths, whose powers stand in one
// permuted register, and a rest r of at most one: shorter chains than without a table.

inline constexpr float kSixteenthsMagic = kRoundingMagic / 16;

// The power of two of the sixteenths that stand in the low bits of `shifted`.
HWY_INLINE __m512 PowerOfSixteenths(__m512 shifted) {
  const __m512 powers =
      _mm512_setr_ps(1.0f, 1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f,
                     1.29683955f, 1.35425555f, 1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f,
                     1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f);
  return _mm512_permutexvar_ps(_mm512_castps_si512(shifted), powers);
}

// e^x to 2e-7; infinity from 88.73 on.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D, V x) {
  // Within the bounds, which are far outside those of the result, sixteenths are exact. The
  // operands' order keeps NaN.
  const __m512 above = _mm512_max_ps(_mm512_set1_ps(-20000.0f), x.raw);
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(20000.0f), above);
  const __m512 magic = _mm512_set1_ps(kSixteenthsMagic);
  const __m512 shifted = _mm512_fmadd_ps(bounded, _mm512_set1_ps(kLog2e), magic);
  const __m512 k = _mm512_sub_ps(shifted, magic);
  __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(kLn2High), bounded);
  r = _mm512_fnmadd_ps(k, _mm512_set1_ps(kLn2Low), r);
  const __m512 half = _mm512_fmadd_ps(_mm512_set1_ps(1.0f / 6), r, _mm512_set1_ps(0.5f));
  const __m512 slope = _mm512_fmadd_ps(half, r, _mm512_set1_ps(1.0f));
  const __m512 power = PowerOfSixteenths(shifted);
  return V{_mm512_scalef_ps(_mm512_fmadd_ps(slope, _mm512_mul_ps(r, power), power), k)};
}

// 2^(ab) to 6e-7 and exactly 1 at ab = 0; infinity from 128 on. Rounds ab + 1/32 down to
// sixteenths, so that one number gives the rest, 1/32 too large, and the integer part that scales.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2OfProduct(D, V a, V b) {
  const __m512 x = _mm512_fmadd_ps(a.raw, b.raw, _mm512_set1_ps(1.0f / 32));
  const __m512 shifted = _mm512_add_round_ps(x, _mm512_set1_ps(kSixteenthsMagic),
                                             _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_reduce_ps(x, 0x41);  // 0 <= r < 1/16, and 0 at infinities
  __m512 sum = _mm512_fmadd_ps(_mm512_set1_ps(0.240219459f), r, _mm512_set1_ps(0.678173661f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.978572488f));
  return V{_mm512_scalef_ps(_mm512_mul_ps(sum, PowerOfSixteenths(shifted)), x)};
}

#else

// 2^n for the integer n in -126..128 that stands in the low bits of kRoundingMagic + n; 2^128 is
// infinity.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V PowerOfTwo(D d, V magic_plus_n) {
  const hn::RebindToSigned<D> di;
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, magic_plus_n));
  return hn::BitCast(d, hn::Add(exponent, hn::Set(di, 127 << 23)));
}

// `value`, the power of x, made 0 or infinity where x leaves [lowest, highest].
template <class D, class V = hn::Vec<D>>
HWY_INLINE V WithinRange(D d, V x, float lowest, float highest, V value) {
  const V infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  const V not_small = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, lowest)), value);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, highest)), infinity, not_small);
}

// e^x to 2e-7; infinity above 88.37, 0 below -87.34. Cody and Waite's reduction to |r| <= ln(2) / 2
// and the polynomial of Cephes' expf.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  constexpr float kCoefficients[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                                     8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
  const V magic = hn::Set(d, kRoundingMagic);
  const V shifted = hn::MulAdd(x, hn::Set(d, kLog2e), magic);
  const V n = hn::Sub(shifted, magic);
  V r = hn::NegMulAdd(n, hn::Set(d, kLn2High), x);
  r = hn::NegMulAdd(n, hn::Set(d, kLn2Low), r);
  const V above_one = hn::MulAdd(Polynomial(d, r, kCoefficients), hn::Mul(r, r), r);
  const V power = PowerOfTwo(d, shifted);
  return WithinRange(d, x, -87.3365f, 88.37f, hn::MulAdd(above_one, power, power));
}

// 2^(ab), ab rounded, to 1e-7 and exactly 1 at ab = 0; infinity above 127.5, 0 below -126.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2OfProduct(D d, V a, V b) {
  const V x = hn::Mul(a, b);
  constexpr float kCoefficients[] = {0.6931471825f,   0.2402264774f,   0.05550332367f,
                                     0.009618436918f, 0.001339887502f, 0.0001535336196f};
  const V magic = hn::Set(d, kRoundingMagic);
  const V shifted = hn::Add(x, magic);
  const V r = hn::Sub(x, hn::Sub(shifted, magic));
  const V above_one = hn::Mul(Polynomial(d, r, kCoefficients), r);
  const V power = PowerOfTwo(d, shifted);
  return WithinRange(d, x, -126.0f, 127.5f, hn::MulAdd(above_one, power, power));
}

#endif

// ln(1 + u) for 0 <= u <= 1 to 2e-7: 2 atanh(s) with s = u / (2 + u), a series in s^2 <= 1/9.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pOfUnit(D d, V u) {
  constexpr float kCoefficients[] = {2.0f, 0.66666315f, 0.40024910f, 0.27960601f, 0.28178341f};
  const V s = hn::Div(u, hn::Add(u, hn::Set(d, 2.0f)));
  return hn::Mul(s, Polynomial(d, hn::Mul(s, s), kCoefficients));
}

// softplus(x) = ln(1 + e^x) to 5e-7, and its derivative, sigmoid(x), to 4e-7. Above 20 the former
// rounds to x itself.
template <class V>
struct SoftplusValues {
  V value, derivative;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE SoftplusValues<V> SoftplusAndDerivative(D d, V x) {
  const V zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  const V e = Exp(d, hn::Or(x, hn::SignBit(d)));  // of -|x|
  return {hn::Add(hn::Max(zero, x), Log1pOfUnit(d, e)),
          hn::Div(hn::IfThenElse(hn::Gt(x, zero), one, e), hn::Add(one, e))};
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  return SoftplusAndDerivative(d, x).value;
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SoftplusDerivative(D d, V x) {
  return SoftplusAndDerivative(d, x).derivative;
}

// 1 / (1 + e^-x) to 4e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exp(d, hn::Neg(x))));
}

// tanh(x) to 6e-7, odd to the bit: from e^(-2|x|), or, where that cancels, by its series.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  constexpr float kSeries[] = {1.0f, -1.0f / 3, 2.0f / 15, -17.0f / 315, 62.0f / 2835};
  const V one = hn::Set(d, 1.0f), size = hn::Abs(x);
  const V e = Exp(d, hn::Mul(size, hn::Set(d, -2.0f)));
  const V large = hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), x);
  const V small = hn::Mul(x, Polynomial(d, hn::Mul(x, x), kSeries));
  return hn::IfThenElse(hn::Lt(size, hn::Set(d, 0.25f)), small, large);
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

// Phi(x), the standard normal distribution's integral up to x, to 3e-7 of 1, and its density. The
// tail below -|x| is e^(-x^2 / 2) t P(t) for t = 1 / (1 + 0.21 |x|), with P fitted to |x| <= 14.
template <class V>
struct NormalValues {
  V below, density;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE NormalValues<V> NormalDistribution(D d, V x) {
  constexpr float kTail[] = {0.083711572f,  0.0850688592f,  0.0691921562f,
                             0.124872774f,  -0.0939253196f, 0.349401176f,
                             -0.330253541f, 0.283588648f,   -0.0716563314f};
  const V one = hn::Set(d, 1.0f), size = hn::Abs(x);
  const V e = Exp(d, hn::Mul(hn::Set(d, -0.5f), hn::Mul(x, x)));
  const V t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.21f), size, one));
  const V tail = hn::Mul(hn::Mul(t, Polynomial(d, t, kTail)), e);
  return {hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail)),
          hn::Mul(hn::Set(d, 0.398942280f), e)};
}

// x Phi(x), and its derivative, Phi(x) + x density(x)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Gelu(D d, V x) {
  return hn::Mul(x, NormalDistribution(d, x).below);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluDerivative(D d, V x) {
  const NormalValues<V> normal = NormalDistribution(d, x);
  return hn::MulAdd(x, normal.density, normal.below);
}

// GELU's approximation by tanh is x sigmoid(u), for u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
inline constexpr float kGeluInner = 1.59576912f, kGeluCubic = 0.0713548162f;
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanhGate(D d, V x) {
  const V slope = hn::MulAdd(hn::Set(d, kGeluCubic), hn::Mul(x, x), hn::Set(d, kGeluInner));
  return Sigmoid(d, hn::Mul(x, slope));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanh(D d, V x) {
  return hn::Mul(x, GeluTanhGate(d, x));
}
// s + s (1 - s) x du/dx for s = sigmoid(u)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanhDerivative(D d, V x) {
  const V s = GeluTanhGate(d, x);
  const V slope = hn::MulAdd(hn::Set(d, 3 * kGeluCubic), hn::Mul(x, x), hn::Set(d, kGeluInner));
  return hn::MulAdd(hn::Mul(s, hn::Sub(hn::Set(d, 1.0f), s)), hn::Mul(x, slope), s);
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/convert.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <limits>

namespace elapse {
namespace {

// The bits of a binary floating-point format: sign, exponent, mantissa.
template <class Bits_, int kMantissa_, int kExponent_>
struct Format {
  using Bits = Bits_;
  static constexpr int kMantissa = kMantissa_;
  static constexpr int kExponent = kExponent_;
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr Bits kSign = Bits{1} << (kMantissa + kExponent);
  static constexpr Bits kInfinity = ((Bits{1} << kExponent) - 1) << kMantissa;
};
using F64 = Format<uint64_t, 52, 11>;
using F32 = Format<uint32_t, 23, 8>;
using F16 = Format<uint16_t, 10, 5>;
using BF16 = Format<uint16_t, 7, 8>;

// v / 2^shift, to nearest, ties to even.
template <class Bits>
Bits rounded_shift(Bits v, int shift) {
  if (shift == 0) return v;
  if (shift >= std::numeric_limits<Bits>::digits) return 0;  // below half of the last place
  const Bits half = Bits{1} << (shift - 1);
  return (v + half - 1 + (v >> shift & 1)) >> shift;
}

// A magnitude (no sign bit) of From in the narrower To.
template <class From, class To>
typename To::Bits narrowed(typename From::Bits magnitude) {
  using Bits = typename From::Bits;
  constexpr int kShift = From::kMantissa - To::kMantissa;
  constexpr int kRebias = From::kBias - To::kBias;
  if (magnitude >= From::kInfinity) {
    const Bits payload = (magnitude - From::kInfinity) >> kShift;
    const bool lost = payload == 0 && magnitude != From::kInfinity;  // it would be an infinity
    const Bits quiet = lost ? Bits{1} << (To::kMantissa - 1) : 0;
    return static_cast<typename To::Bits>(To::kInfinity + payload + quiet);
  }
  const auto exponent = static_cast<int>(magnitude >> From::kMantissa);
  if (exponent > kRebias) {
    const Bits rebased = magnitude - (static_cast<Bits>(kRebias) << From::kMantissa);
    const Bits rounded = rounded_shift(rebased, kShift);
    return rounded < To::kInfinity ? static_cast<typename To::Bits>(rounded) : To::kInfinity;
  }
  const Bits leading = exponent == 0 ? 0 : Bits{1} << From::kMantissa;
  const Bits significand = (magnitude & ((Bits{1} << From::kMantissa) - 1)) | leading;
  const int below = kRebias + 1 - std::max(exponent, 1);  // binary places below To's least exponent
  return static_cast<typename To::Bits>(rounded_shift(significand, kShift + below));
}

template <class From, class To>
typename To::Bits widened(typename From::Bits magnitude) {
  using Bits = typename To::Bits;
  constexpr int kShift = To::kMantissa - From::kMantissa;
  constexpr Bits kRebias = static_cast<Bits>(To::kBias - From::kBias) << To::kMantissa;
  const Bits shifted = static_cast<Bits>(magnitude) << kShift;
  if (magnitude >= From::kInfinity)
    return To::kInfinity + (shifted - (Bits{From::kInfinity} << kShift));
  if (magnitude >> From::kMantissa != 0 || To::kBias == From::kBias) return shifted + kRebias;
  if (magnitude == 0) return 0;
  // A subnormal, of which To has the double: its leading bit becomes the implicit one.
  const int places = From::kMantissa + 1 - std::bit_width(magnitude);
  const Bits leading_out = (shifted << places) & ((Bits{1} << To::kMantissa) - 1);
  return leading_out + kRebias + (static_cast<Bits>(1 - places) << To::kMantissa);
}

template <class From, class To>
typename To::Bits converted(typename From::Bits bits) {
  const auto magnitude = static_cast<typename From::Bits>(bits & ~From::kSign);
  const typename To::Bits sign = bits == magnitude ? 0 : To::kSign;
  typename To::Bits out = 0;
  if constexpr (To::kMantissa <= From::kMantissa && To::kExponent <= From::kExponent) {
    out = narrowed<From, To>(magnitude);
  } else if constexpr (To::kMantissa >= From::kMantissa && To::kExponent >= From::kExponent) {
    out = widened<From, To>(magnitude);
  } else {
    // f16 and bf16 into each other: exact in f32, then rounded once.
    out = narrowed<F32, To>(widened<From, F32>(magnitude));
  }
  return static_cast<typename To::Bits>(sign | out);
}

template <class From, class To>
int64_t convert(const void* from, void* to, int64_t count) {
  const auto* in = static_cast<const std::byte*>(from);
  auto* out = static_cast<std::byte*>(to);
  int64_t overflows = 0;
  for (int64_t i = 0; i < count; ++i) {
    typename From::Bits bits;
    std::memcpy(&bits, in + i * int64_t{sizeof(bits)}, sizeof(bits));
    const typename To::Bits result = converted<From, To>(bits);
    std::memcpy(out + i * int64_t{sizeof(result)}, &result, sizeof(result));
    const bool was_finite = (bits & ~From::kSign) < From::kInfinity;
    overflows += was_finite && (result & ~To::kSign) == To::kInfinity ? 1 : 0;
  }
  return overflows;
}

template <class From>
int64_t convert_from(const void* from, DType to_dtype, void* to, int64_t count) {
  switch (to_dtype) {
    case DType::f64:
      return convert<From, F64>(from, to, count);
    case DType::f32:
      return convert<From, F32>(from, to, count);
    case DType::f16:
      return convert<From, F16>(from, to, count);
    default:
      return convert<From, BF16>(from, to, count);
  }
}

}  // namespace

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16;
}

int64_t convert_elements(DType from_dtype, const void* from, DType to_dtype, void* to,
                         int64_t count) {
  assert(is_float(from_dtype) && is_float(to_dtype));
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<size_t>(count * size_of(to_dtype)));
    return 0;
  }
  switch (from_dtype) {
    case DType::f64:
      return convert_from<F64>(from, to_dtype, to, count);
    case DType::f32:
      return convert_from<F32>(from, to_dtype, to, count);
    case DType::f16:
      return convert_from<F16>(from, to_dtype, to, count);
    default:
      return convert_from<BF16>(from, to_dtype, to, count);
  }
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace elapse {

enum class DType : uint8_t { f32, f64, f16, bf16, i64, i32, u8 };

int64_t size_of(DType dtype);           // bytes of one element
std::string_view name_of(DType dtype);  // "f32", "bf16", ...
// Of what stands beside activations of this dtype and keeps more of its digits (parameters, states,
// statistics, sums): f32 for those of 16 bits, else the same.
DType wide_dtype(DType dtype);

template <class T>
inline constexpr bool kAlwaysFalse = false;

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  else if constexpr (std::is_same_v<T, double>) return DType::f64;
  else if constexpr (std::is_same_v<T, int64_t>) return DType::i64;
  else if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  else if constexpr (std::is_same_v<T, uint8_t>) return DType::u8;
  else static_assert(kAlwaysFalse<T>, "no DType for this type");
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/dtype.h"

#include <array>

namespace elapse {
namespace {

struct Info {
  int64_t size;
  std::string_view name;
};
constexpr std::array<Info, 7> kInfo = {
    {{4, "f32"}, {8, "f64"}, {2, "f16"}, {2, "bf16"}, {8, "i64"}, {4, "i32"}, {1, "u8"}}};

}  // namespace

int64_t size_of(DType dtype) { return kInfo[static_cast<size_t>(dtype)].size; }
std::string_view name_of(DType dtype) { return kInfo[static_cast<size_t>(dtype)].name; }
DType wide_dtype(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16 ? DType::f32 : dtype;
}

}  // namespace elapse

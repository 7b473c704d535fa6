// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <compare>
#include <cstdint>

namespace elapse::cpu {

struct Strides {
  int64_t row, column;
  auto operator<=>(const Strides&) const = default;
};

// c (m, n) = or += a (m, k) b (k, n), in f32; the columns of c are contiguous. The last bits depend
// on the sizes and the strides, which a caller fixes for a value wherever it stands.
struct Product {
  int64_t m, n, k;
  Strides a, b;
  int64_t c_row;
  bool accumulates;
  bool bf16 = false;  // a and b
  auto operator<=>(const Product&) const = default;
};

// On this thread alone.
void multiply(const Product& p, const void* a, const void* b, float* c);

}  // namespace elapse::cpu

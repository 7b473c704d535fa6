// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string_view>

#include "elapse/ops/device.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Argument checks, made once, where an operation is called; kernels only assert. Each throws an
// Error such as "linear_forward: weight: expected f32 (64, 32), found f32 (64, 31)".
class ArgumentCheck {
 public:
  ArgumentCheck(Op op, DType dtype) : op_(op), dtype_(dtype) {}
  // Of an operation that the device is to compute in this dtype: says first that it cannot.
  ArgumentCheck(const Device& device, Op op, DType dtype);

  // Of the operation's dtype and this shape, with contiguous columns (rows may be strided).
  void matrix(std::string_view name, const Tensor& t, Shape shape) const;
  // Contiguous as well.
  void contiguous(std::string_view name, const Tensor& t, Shape shape) const;
  // Contiguous, of the operation's dtype or, where that is f32, of 16 bits.
  void weight(std::string_view name, const Tensor& t, Shape shape) const;
  void indices(std::string_view name, const Tensor& t, Shape shape) const;  // i64, contiguous
  // A pool of states (slots, inner...): contiguous, at least `slots` slots; empty where 0 are used.
  void pool(std::string_view name, const Tensor& t, int64_t slots, int64_t rows,
            int64_t columns) const;
  // Of a value of this shape, which stands between operations, or inside of one.
  void tap(std::string_view name, const Tap& tap, Shape shape) const;
  void inner_tap(std::string_view name, const Tap& tap, Shape shape) const;
  void that(bool condition, std::string_view sentence) const;

 private:
  void tap_part(std::string_view name, const Tensor& t, const TapPart& part, Shape shape) const;
  void typed(std::string_view name, const Tensor& t, DType dtype, Shape shape) const;

  Op op_;
  DType dtype_;
};

}  // namespace elapse

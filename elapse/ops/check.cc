// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/check.h"

namespace elapse {

void ArgumentCheck::typed(std::string_view name, const Tensor& t, DType dtype, Shape shape) const {
  ELAPSE_CHECK(t || shape.numel() == 0, "{}: {} is missing", name_of(op_), name);
  ELAPSE_CHECK(t.dtype() == dtype && t.shape() == shape, "{}: {}: expected {} {}, found {} {}",
               name_of(op_), name, name_of(dtype), shape.str(), name_of(t.dtype()),
               t.shape().str());
}

void ArgumentCheck::matrix(std::string_view name, const Tensor& t, Shape shape) const {
  typed(name, t, dtype_, shape);
  ELAPSE_CHECK(t.dim(-1) <= 1 || t.stride(-1) == 1, "{}: {}: columns are not contiguous",
               name_of(op_), name);
}

void ArgumentCheck::contiguous(std::string_view name, const Tensor& t, Shape shape) const {
  typed(name, t, dtype_, shape);
  ELAPSE_CHECK(t.is_contiguous(), "{}: {} is not contiguous", name_of(op_), name);
}

void ArgumentCheck::weight(std::string_view name, const Tensor& t, Shape shape) const {
  const bool narrow = t.dtype() == DType::f16 || t.dtype() == DType::bf16;
  const ArgumentCheck check(op_, narrow && dtype_ == DType::f32 ? t.dtype() : dtype_);
  check.contiguous(name, t, shape);
}

void ArgumentCheck::indices(std::string_view name, const Tensor& t, Shape shape) const {
  typed(name, t, DType::i64, shape);
  ELAPSE_CHECK(t.is_contiguous(), "{}: {} is not contiguous", name_of(op_), name);
}

void ArgumentCheck::pool(std::string_view name, const Tensor& t, int64_t slots, int64_t rows,
                         int64_t columns) const {
  if (!t) return that(slots == 0, "sequences name state slots, but no pool is given");
  contiguous(name, t, {t.dim(0), rows, columns});
  ELAPSE_CHECK(t.dim(0) >= slots, "{}: {} has {} slots, but slot {} is named", name_of(op_), name,
               t.dim(0), slots - 1);
}

void ArgumentCheck::tap(std::string_view name, const Tap& tap, Shape shape) const {
  if (tap.watch) contiguous(name, tap.watch, shape);
  if (!tap.edits()) return;
  if (tap.source && tap.source.numel() == 1)
    return typed(name, tap.source, dtype_, tap.source.shape());
  contiguous(name, tap.source, shape);
}

void ArgumentCheck::that(bool condition, std::string_view sentence) const {
  ELAPSE_CHECK(condition, "{}: {}", name_of(op_), sentence);
}

}  // namespace elapse

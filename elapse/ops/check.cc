// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/check.h"

namespace elapse {

ArgumentCheck::ArgumentCheck(const Device& device, Op op, DType dtype) : ArgumentCheck(op, dtype) {
  ELAPSE_CHECK(device.has(dtype, op), "{}: no {} kernel on device {}", name_of(op), name_of(dtype),
               device.name());
}

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
  if (tap.watch) tap_part(name, tap.watch, tap.watched, shape);
  if (tap.gradient) tap_part(name, tap.gradient, tap.graded, shape);
  for (const TapEdit& edit : tap.edits) {
    const bool one = edit.source && edit.source.numel() == 1 && edit.op != EditOp::project_out;
    if (one) typed(name, edit.source, dtype_, edit.source.shape());
    else tap_part(name, edit.source, edit.part, shape);
  }
}

void ArgumentCheck::inner_tap(std::string_view name, const Tap& tap, Shape shape) const {
  for (const TapEdit& edit : tap.edits) {
    that(edit.op != EditOp::project_out,
         "a direction can be projected out of values between operations alone: inside of this one "
         "a token's channels are never together");
  }
  this->tap(name, tap, shape);
}

// `t` holds the part of a value of this shape, in as many rows as the part has.
void ArgumentCheck::tap_part(std::string_view name, const Tensor& t, const TapPart& part,
                             Shape shape) const {
  if (part.is_whole()) return contiguous(name, t, shape);
  if (part.row_of) indices(name, part.row_of, {shape[0]});
  const int64_t channels = shape.rank() > 1 ? shape[1] : 1,
                states = shape.rank() > 2 ? shape[2] : 1;
  that((part.row_of || part.rows == shape[0]) && part.channels == channels &&
           part.states == states && part.first_channel >= 0 &&
           part.first_channel + part.channel_count <= channels && part.first_state >= 0 &&
           part.first_state + part.state_count <= states,
       fmt::format("{}: a part that {} does not have", name, shape.str()));
  Shape held = shape;
  held.set(0, part.rows);
  if (shape.rank() > 1) held.set(1, part.channel_count);
  if (shape.rank() > 2) held.set(2, part.state_count);
  contiguous(name, t, held);
}

void ArgumentCheck::that(bool condition, std::string_view sentence) const {
  ELAPSE_CHECK(condition, "{}: {}", name_of(op_), sentence);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// Parts of values for the tests of taps.
#pragma once
#include "elapse/ops/tap.h"
#include "tests/ops/op_test.h"

namespace elapse::op_test {

// Every third row, the later first; but for the first and last channel and state, if there are
// more than two.
inline TapPart some_part(Operands& o, const Shape& shape) {
  const auto size = [&](int axis) { return shape.rank() > axis ? shape[axis] : 1; };
  const auto first = [](int64_t n) { return int64_t{n > 2}; };
  const auto count = [](int64_t n) { return n > 2 ? n - 2 : n; };
  std::vector<int64_t> row_of(static_cast<size_t>(shape[0]), -1);
  const int64_t rows = (shape[0] + 2) / 3;
  for (int64_t i = 0; i < rows; ++i) row_of[static_cast<size_t>(3 * i)] = rows - 1 - i;
  return {.row_of = o.indices(row_of),
          .rows = rows,
          .channels = size(1),
          .states = size(2),
          .first_channel = first(size(1)),
          .channel_count = count(size(1)),
          .first_state = first(size(2)),
          .state_count = count(size(2))};
}

// The shape of the tensor that holds some_part.
inline Shape some_part_shape(const Shape& shape) {
  Shape held = shape;
  held.set(0, (shape[0] + 2) / 3);
  for (int axis = 1; axis < shape.rank(); ++axis) {
    if (shape[axis] > 2) held.set(axis, shape[axis] - 2);
  }
  return held;
}

// The part's elements in `whole`, in the part's order.
inline std::vector<double> values_of_part(const TapPart& part, const Tensor& whole, Shape held) {
  std::vector<double> out(static_cast<size_t>(held.numel()), std::nan(""));
  const std::vector<double> all = values(whole);
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t place = part.place(static_cast<int64_t>(i));
    if (place >= 0) out[static_cast<size_t>(place)] = all[i];
  }
  return out;
}

}  // namespace elapse::op_test

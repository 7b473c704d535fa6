// SPDX-License-Identifier: Apache-2.0
// Values between operations past taps: edits of parts, watchers, gradients.
#include "elapse/ops/tap.h"

#include <gtest/gtest.h>

#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"
#include "tests/ops/tap_parts.h"

namespace elapse {
namespace {

using namespace op_test;

constexpr EditOp kOps[] = {EditOp::set, EditOp::add, EditOp::scale, EditOp::project_out};
const Shape kShapes[] = {{7, 5}, {1, 1}, {40, 130}, {6, 4, 5}, {2, 3, 1}};

bool takes(EditOp op, const Shape& shape) { return op != EditOp::project_out || shape.rank() == 2; }

TEST(Tap, AgreesWithRef) {
  for (const EditOp op : kOps) {
    for (const Shape& shape : kShapes) {
      if (!takes(op, shape)) continue;
      SCOPED_TRACE(fmt::format("edit {} of {}", static_cast<int>(op), shape.str()));
      for (const bool whole : {true, false}) {
        const auto call = [&](Device& device, Operands& o) {
          const TapPart part = whole ? TapPart{} : some_part(o, shape);
          const Shape held = whole ? shape : some_part_shape(shape);
          const int64_t padding = shape.rank() == 2 ? 3 : 0;
          Tap tap = {.watch = o.assigned(held), .watched = part};
          tap.edits = {{op, o.input(held), part}, {EditOp::scale, o.input({1}), part}};
          const Tensor x = o.activation(shape, -1, 1, padding);
          tap_forward(device, {x, tap, o.assigned_activation(shape)});
          tap.watch = {};
          tap.gradient = o.assigned(held);
          tap.graded = part;
          tap_backward(device, {x, tap, o.assigned_activation(shape, padding)});
        };
        const double tolerance = 4 * kEpsilon * static_cast<double>(shape[1]);
        expect_backends_agree(call, tolerance);
        // What is watched is what goes on, rounded.
        expect_cuda_agrees_in_bf16(call, tolerance + kBf16Epsilon);
      }
    }
  }
}

TEST(Tap, WatchesWithoutCopying) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const Shape shape = {10, 6};
  const TapPart part = some_part(o, shape);
  const Tensor x = o.input(shape), watch = o.assigned(some_part_shape(shape));
  tap_forward(cpu, {x, {.watch = watch, .watched = part}, {}});
  EXPECT_EQ(values(watch), values_of_part(part, x, watch.shape()));
}

TEST(Tap, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref", 1);
  for (const EditOp op : kOps) {
    Operands o(DType::f64);
    const Shape shape = {7, 4};
    const TapPart part = some_part(o, shape);
    const Tap tap = {.edits = {{op, o.input(some_part_shape(shape)), part}}};
    const Tensor x = o.input(shape), dy = o.input(shape);
    const Tensor y = o.assigned(shape), dx = o.assigned(shape);
    tap_backward(ref, {dy, tap, dx});
    const auto loss = [&] {
      tap_forward(ref, {x, tap, y});
      return weighted_sum(y, dy);
    };
    expect_gradient(x, dx, loss, "edited");
  }
}

TEST(Tap, ProjectedOutNothingIsLeftAlongTheDirection) {
  Device ref("ref", 1);
  Operands o(DType::f64);
  const Tensor x = o.input({5, 6}), u = o.input({5, 6}), y = o.assigned({5, 6});
  tap_forward(ref, {x, {.edits = {{EditOp::project_out, u}}}, y});
  for (int64_t r = 0; r < 5; ++r) {
    EXPECT_NEAR(weighted_sum(y.rows(r, r + 1), u.rows(r, r + 1)), 0, 1e-15);
  }
  const Tensor zero = o.accumulated({5, 6});
  fill(ref, {zero, 0});
  tap_forward(ref, {x, {.edits = {{EditOp::project_out, zero}}}, y});
  EXPECT_EQ(values(y), values(x));
}

TEST(Tap, RefusesWhatDoesNotFit) {
  Device ref("ref", 1);
  Operands o(DType::f64);
  const Shape shape = {7, 4};
  const Tensor x = o.input(shape), y = o.assigned(shape);
  TapPart part = some_part(o, shape);
  EXPECT_THROW(tap_forward(ref, {x, {.edits = {{EditOp::set, o.input({2, 2}), part}}}, y}), Error);
  EXPECT_THROW(tap_forward(ref, {x, {.edits = {{EditOp::set, o.input({3, 2}), part}}}, {}}), Error);
  part.first_channel = 3;
  EXPECT_THROW(tap_forward(ref, {x, {.edits = {{EditOp::set, o.input({3, 2}), part}}}, y}), Error);
}

}  // namespace
}  // namespace elapse

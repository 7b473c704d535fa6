// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rms_norm.h"

#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  int64_t tokens, d_model;
  bool residual = true;
  EditOp edit = EditOp::none;
  bool watch = false;
  int64_t row_padding = 0;
};

const Case kCases[] = {
    {0, 16},
    {1, 1},
    {3, 15, false},
    {3, 16, true, EditOp::none, true},
    {2, 17, false, EditOp::scale, true, 3},
    {37, 130, true, EditOp::add, false, 5},
    {5, 33, true, EditOp::set, true},
    {600, 130, true, EditOp::none, true, 7},  // more than one block
    {131, 768, true, EditOp::scale, true, 2},
    {65, 1024, false, EditOp::none, true},
    {9, 1026},
    {1, 2560, true, EditOp::none, true},  // a block a token, up to some number of them
    {256, 514, true, EditOp::none, false, 2},
    {257, 514, true, EditOp::none, false, 2},
    {259, 2050, true, EditOp::scale, true, 2},  // a block a token, of long rows
    {4, 4096},
    {4, 4098, false},
};

Tap scale_tap(Operands& o, const Case& c) {
  Tap tap;
  if (c.edit != EditOp::none) tap.edits = {{c.edit, o.input({c.tokens, 1}, 0.5, 1.5)}};
  if (c.watch) tap.watch = o.assigned({c.tokens, 1});
  return tap;
}

// Values of magnitude 1 / 2 to 3 / 2 keep 1 / scale below 2.
RmsNormForward forward_args(Operands& o, const Case& c) {
  const Shape shape = {c.tokens, c.d_model};
  RmsNormForward args;
  args.x = o.activation(shape, 0.5, 1.5, c.row_padding);
  if (c.residual) {
    args.residual = o.input(shape, 0, 0.5);
    args.sum = o.assigned(shape, c.row_padding);
  }
  args.weight = o.input({c.d_model});
  args.scale = o.assigned({c.tokens, 1});
  args.y = o.assigned_activation(shape, c.row_padding);
  args.scale_tap = scale_tap(o, c);
  return args;
}

RmsNormBackward backward_args(Operands& o, const Case& c, const RmsNormForward& forward) {
  const Shape shape = {c.tokens, c.d_model};
  RmsNormBackward args;
  args.dy = o.activation(shape, -1, 1, c.row_padding);
  if (c.residual) args.dsum = o.input(shape);
  args.sum = c.residual ? forward.sum : forward.x;
  args.weight = forward.weight;
  args.scale = forward.scale;
  args.scale_tap = forward.scale_tap;
  const bool wide_sum = args.sum.dtype() == o.dtype();
  args.dsum_total =
      wide_sum ? o.assigned(shape, c.row_padding) : o.assigned_activation(shape, c.row_padding);
  args.dweight = o.accumulated({c.d_model});
  return args;
}

// Both sums run over at most tokens or d_model terms of magnitude at most 4.
double tolerance(const Case& c) {
  return 4 * kEpsilon * static_cast<double>(std::max(c.tokens, c.d_model) + 16);
}

TEST(RmsNorm, AgreesWithRef) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.d_model);
    const auto call = [&](Device& device, Operands& o) {
      const RmsNormForward forward = forward_args(o, c);
      rms_norm_forward(device, forward);
      rms_norm_backward(device, backward_args(o, c, forward));
    };
    expect_backends_agree(call, tolerance(c));
    expect_cuda_agrees(call, tolerance(c), 1, DType::f32, Guarded::kAligned);
    expect_cuda_agrees_in_bf16(call, tolerance(c));
  }
}

// The stream's first norm, of a float32 x, and the gradient that a sum hands to an x of bf16.
TEST(RmsNorm, CudaAgreesWithRefBetweenBf16AndTheStream) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  for (const Case& c : kCases) {
    if (c.edit != EditOp::none) continue;
    SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.d_model);
    const Shape shape = {c.tokens, c.d_model};
    const auto call = [&](Device& device, Operands& o) {
      RmsNormForward forward;
      forward.x = o.input(shape, 0.5, 1.5);
      forward.weight = o.input({c.d_model});
      forward.scale = o.assigned({c.tokens, 1});
      forward.y = o.assigned_activation(shape);
      rms_norm_forward(device, forward);
      RmsNormBackward backward;
      backward.dy = o.activation(shape);
      backward.dsum = o.input(shape);
      backward.sum = forward.x;
      backward.weight = forward.weight;
      backward.scale = forward.scale;
      backward.dsum_total = o.assigned(shape);
      backward.dweight = o.accumulated({c.d_model});
      const Tensor dx = o.assigned_activation(shape);
      if (dx.dtype() == DType::bf16) backward.dx = dx;
      rms_norm_backward(device, backward);
      if (dx.dtype() != DType::bf16) copy(device, {backward.dsum_total, dx});
    };
    expect_cuda_agrees(call, tolerance(c), 1, DType::bf16);
  }
}

TEST(RmsNorm, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const EditOp edit : {EditOp::none, EditOp::set, EditOp::add, EditOp::scale}) {
    Operands o(DType::f64);
    const RmsNormForward forward = forward_args(o, {3, 5, true, edit});
    rms_norm_forward(ref, forward);
    const RmsNormBackward backward = backward_args(o, {3, 5, true, edit}, forward);
    const auto before = values(backward.dweight);
    rms_norm_backward(ref, backward);
    for (size_t i = 0; i < before.size(); ++i) {
      backward.dweight.data<double>()[i] -= before[i];
    }
    const auto loss = [&] {
      rms_norm_forward(ref, forward);
      return weighted_sum(forward.y, backward.dy) + weighted_sum(forward.sum, backward.dsum);
    };
    expect_gradient(forward.x, backward.dsum_total, loss, "x");
    expect_gradient(forward.residual, backward.dsum_total, loss, "residual");
    expect_gradient(forward.weight, backward.dweight, loss, "weight");
  }
}

TEST(RmsNorm, GradientMayReplaceWhatReachedSum) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const RmsNormForward forward = forward_args(o, {4, 37});
  rms_norm_forward(cpu, forward);
  RmsNormBackward backward = backward_args(o, {4, 37}, forward);
  rms_norm_backward(cpu, backward);
  const auto expected = values(backward.dsum_total);
  backward.dsum_total = backward.dsum;
  rms_norm_backward(cpu, backward);
  EXPECT_EQ(values(backward.dsum), expected);
}

TEST(RmsNorm, SettingTheScaleToItselfChangesNoBit) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  RmsNormForward forward = forward_args(o, {9, 37, true, EditOp::none, true});
  rms_norm_forward(cpu, forward);
  const auto expected = values(forward.y);
  EXPECT_EQ(values(forward.scale_tap.watch), values(forward.scale));
  forward.scale_tap = {.edits = {{EditOp::set, forward.scale_tap.watch}}};
  rms_norm_forward(cpu, forward);
  EXPECT_EQ(values(forward.y), expected);
}

}  // namespace
}  // namespace elapse

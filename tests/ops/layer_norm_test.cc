// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/layer_norm.h"

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
};

Tap scale_tap(Operands& o, const Case& c) {
  Tap tap;
  if (c.edit != EditOp::none) tap.edits = {{c.edit, o.input({c.tokens, 1}, 0.5, 1.5)}};
  if (c.watch) tap.watch = o.assigned({c.tokens, 1});
  return tap;
}

// Off zero, so that a mean that is not taken off shows.
LayerNormForward forward_args(Operands& o, const Case& c) {
  const Shape shape = {c.tokens, c.d_model};
  LayerNormForward args;
  args.x =
      c.residual ? o.activation(shape, -1, 3, c.row_padding) : o.input(shape, -1, 3, c.row_padding);
  if (c.residual) {
    args.residual = o.input(shape, 0, 2);
    args.sum = o.assigned(shape, c.row_padding);
  }
  args.weight = o.input({c.d_model});
  args.bias = o.input({c.d_model});
  args.mean = o.assigned({c.tokens, 1});
  args.scale = o.assigned({c.tokens, 1});
  args.y = o.assigned_activation(shape, c.row_padding);
  args.scale_tap = scale_tap(o, c);
  return args;
}

LayerNormBackward backward_args(Operands& o, const Case& c, const LayerNormForward& forward) {
  const Shape shape = {c.tokens, c.d_model};
  LayerNormBackward args;
  args.dy = o.activation(shape, -1, 1, c.row_padding);
  if (c.residual) args.dsum = o.input(shape);
  args.sum = c.residual ? forward.sum : forward.x;
  args.weight = forward.weight;
  args.mean = forward.mean;
  args.scale = forward.scale;
  args.scale_tap = forward.scale_tap;
  args.dsum_total = o.assigned(shape, c.row_padding);
  args.dweight = o.accumulated({c.d_model});
  args.dbias = o.accumulated({c.d_model});
  return args;
}

// All sums run over at most tokens or d_model terms of magnitude at most 8.
double tolerance(const Case& c) {
  return 8 * kEpsilon * static_cast<double>(std::max(c.tokens, c.d_model) + 16);
}

TEST(LayerNorm, AgreesWithRef) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.d_model);
    const auto call = [&](Device& device, Operands& o) {
      const LayerNormForward forward = forward_args(o, c);
      layer_norm_forward(device, forward);
      LayerNormBackward backward = backward_args(o, c, forward);
      // What a sum of float32 hands to an x of bf16.
      const Tensor dx = o.assigned_activation({c.tokens, c.d_model}, c.row_padding);
      if (dx.dtype() == DType::bf16) backward.dx = dx;
      layer_norm_backward(device, backward);
      if (dx.dtype() != DType::bf16) copy(device, {backward.dsum_total, dx});
    };
    expect_backends_agree(call, tolerance(c));
    expect_cuda_agrees_in_bf16(call, tolerance(c));
  }
}

TEST(LayerNorm, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const EditOp edit : {EditOp::none, EditOp::set, EditOp::add, EditOp::scale}) {
    Operands o(DType::f64);
    const LayerNormForward forward = forward_args(o, {3, 5, true, edit});
    layer_norm_forward(ref, forward);
    const LayerNormBackward backward = backward_args(o, {3, 5, true, edit}, forward);
    fill(ref, {backward.dweight, 0});
    fill(ref, {backward.dbias, 0});
    layer_norm_backward(ref, backward);
    const auto loss = [&] {
      layer_norm_forward(ref, forward);
      return weighted_sum(forward.y, backward.dy) + weighted_sum(forward.sum, backward.dsum);
    };
    expect_gradient(forward.x, backward.dsum_total, loss, "x");
    expect_gradient(forward.residual, backward.dsum_total, loss, "residual");
    expect_gradient(forward.weight, backward.dweight, loss, "weight");
    expect_gradient(forward.bias, backward.dbias, loss, "bias");
  }
}

TEST(LayerNorm, GradientMayReplaceWhatReachedSum) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const LayerNormForward forward = forward_args(o, {4, 37});
  layer_norm_forward(cpu, forward);
  LayerNormBackward backward = backward_args(o, {4, 37}, forward);
  layer_norm_backward(cpu, backward);
  const auto expected = values(backward.dsum_total);
  backward.dsum_total = backward.dsum;
  layer_norm_backward(cpu, backward);
  EXPECT_EQ(values(backward.dsum), expected);
}

TEST(LayerNorm, SettingTheScaleToItselfChangesNoBit) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  LayerNormForward forward = forward_args(o, {9, 37, true, EditOp::none, true});
  layer_norm_forward(cpu, forward);
  const auto expected = values(forward.y);
  EXPECT_EQ(values(forward.scale_tap.watch), values(forward.scale));
  forward.scale_tap = {.edits = {{EditOp::set, forward.scale_tap.watch}}};
  layer_norm_forward(cpu, forward);
  EXPECT_EQ(values(forward.y), expected);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_rms_norm.h"

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  int64_t tokens, d_inner;
  int64_t n_groups = 1;
  EditOp edit = EditOp::none;
  bool watch = false;
  int64_t row_padding = 0;
};

const Case kCases[] = {{0, 16},
                       {1, 1},
                       {3, 15, 1, EditOp::none, true},
                       {3, 16, 2, EditOp::set, true},
                       {2, 34, 2, EditOp::scale, true, 3},
                       {37, 130, 5, EditOp::add, false, 5},
                       {5, 33, 33, EditOp::none, false, 2},
                       {600, 130, 1, EditOp::none, true, 7}};  // more than one block

Tap make_tap(Operands& o, const Case& c, Shape shape) {
  Tap tap;
  if (c.edit != EditOp::none) tap.edits = {{c.edit, o.input(shape, 0.5, 1.5)}};
  if (c.watch) tap.watch = o.assigned(shape);
  return tap;
}

// Values of magnitude 1 / 2 to 3 / 2 keep 1 / scale small.
GatedRmsNormForward forward_args(Operands& o, const Case& c) {
  const Shape shape = {c.tokens, c.d_inner};
  GatedRmsNormForward a;
  a.in.eps = 0.5;
  a.in.x = o.activation(shape, 0.5, 1.5, c.row_padding);
  a.in.z = o.activation(shape, -3, 3, c.row_padding);
  a.in.weight = o.input({c.d_inner});
  a.in.n_groups = c.n_groups;
  a.scale = o.assigned({c.tokens, c.n_groups});
  a.y = o.assigned_activation(shape, c.row_padding);
  a.in.gate_tap = make_tap(o, c, shape);
  a.in.gated_tap = make_tap(o, c, shape);
  a.in.scale_tap = make_tap(o, c, {c.tokens, c.n_groups});
  return a;
}

GatedRmsNormBackward backward_args(Operands& o, const Case& c, const GatedRmsNormForward& forward) {
  const Shape shape = {c.tokens, c.d_inner};
  GatedRmsNormBackward a;
  a.dy = o.activation(shape, -1, 1, c.row_padding);
  a.in = forward.in;
  for (Tap* tap : {&a.in.gate_tap, &a.in.gated_tap, &a.in.scale_tap}) tap->watch = {};
  a.scale = forward.scale;
  a.dx = o.assigned_activation(shape, c.row_padding);
  a.dz = o.assigned_activation(shape, c.row_padding);
  a.dweight = o.accumulated({c.d_inner});
  return a;
}

// The sums run over at most tokens or d_inner terms of magnitude at most 8.
double tolerance(const Case& c) {
  return 8 * kEpsilon * static_cast<double>(std::max(c.tokens, c.d_inner) + 16);
}

TEST(GatedRmsNorm, AgreesWithRef) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.d_inner);
    const auto call = [&](Device& device, Operands& o) {
      const GatedRmsNormForward forward = forward_args(o, c);
      gated_rms_norm_forward(device, forward);
      gated_rms_norm_backward(device, backward_args(o, c, forward));
    };
    expect_backends_agree(call, tolerance(c));
    expect_cuda_agrees_in_bf16(call, tolerance(c));
  }
}

TEST(GatedRmsNorm, WatchingChangesNoBit) {
  Device cpu("cpu", 1);
  Case c = {7, 34, 2};
  Operands plain(DType::f32), watched(DType::f32);
  const GatedRmsNormForward a = forward_args(plain, c);
  c.watch = true;
  const GatedRmsNormForward b = forward_args(watched, c);
  gated_rms_norm_forward(cpu, a);
  gated_rms_norm_forward(cpu, b);
  EXPECT_EQ(values(a.y), values(b.y));
}

TEST(GatedRmsNorm, RefGradientsAreThoseOfFiniteDifferences) {
  for (const EditOp edit : {EditOp::none, EditOp::set, EditOp::add, EditOp::scale}) {
    for (Tap GatedRmsNormInputs::*point :
         {&GatedRmsNormInputs::gate_tap, &GatedRmsNormInputs::gated_tap,
          &GatedRmsNormInputs::scale_tap}) {
      Device ref("ref", 1);
      Operands o(DType::f64);
      GatedRmsNormForward forward = forward_args(o, {3, 6, 2, edit});
      for (Tap GatedRmsNormInputs::*other :
           {&GatedRmsNormInputs::gate_tap, &GatedRmsNormInputs::gated_tap,
            &GatedRmsNormInputs::scale_tap}) {
        if (other != point) forward.in.*other = {};
      }
      const GatedRmsNormBackward backward = backward_args(o, {3, 6, 2}, forward);
      for_each_offset(backward.dweight, [&](int64_t i) { put(backward.dweight, i, 0); });
      const auto loss = [&] {
        gated_rms_norm_forward(ref, forward);
        return weighted_sum(forward.y, backward.dy);
      };
      loss();
      gated_rms_norm_backward(ref, backward);
      expect_gradient(forward.in.x, backward.dx, loss, "x");
      expect_gradient(forward.in.z, backward.dz, loss, "z");
      expect_gradient(forward.in.weight, backward.dweight, loss, "weight");
    }
  }
}

}  // namespace
}  // namespace elapse

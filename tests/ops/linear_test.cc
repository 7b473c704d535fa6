// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/linear.h"

#include <cmath>

#include "elapse/core/convert.h"
#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  int64_t rows, in, out;
  bool bias = false;
  int64_t row_padding = 0;
};

const Case kCases[] = {
    {0, 5, 7, true},
    {20, 0, 7, true},
    {3, 0, 2},
    {20, 5, 0},
    {1, 1, 1, true},
    {1, 64, 33},
    {2, 130, 17, true, 3},
    {7, 16, 5, true},
    {8, 15, 4, false, 1},
    {9, 17, 3, true, 5},
    {33, 4, 128, false, 2},
    {64, 1, 19, true},
    {130, 36, 1, true},
    {130, 31, 65, true, 3},
    {600, 40, 36, false, 4},
    {1030, 24, 130, true},  // more than one tile, and sums over rows in parts
    {5, 9, 1100},           // more than one tile across
    {20, 3, 1100, true},
    {300, 1030, 9},
    {1, 768, 100, true},
    {1, 12288, 3},  // 48 KB of weights a block in float32
    {3, 264, 70, true},
    {4, 1032, 9},
    {5, 256, 40},
    {1, 48, 1536, true, 8},
    {4, 8, 3},
    {2, 72, 33, true},
    {1, 1536, 80, true},
    {4, 5120, 7, true},
    {3, 1024, 4095, false, 8},
    {1, 1024, 4097},
    {13, 1032, 260, true, 8},  // the tokens of many sequences
    {64, 768, 33, false, 8},
    {255, 264, 300, true},
    {256, 1000, 24, false, 8},
};

struct Call {
  LinearForward forward;
  LinearBackwardInput backward_input;
  LinearBackwardWeight backward_weight;
};

Call make_call(Operands& o, const Case& c) {
  Call call;
  auto& [forward, backward_input, backward_weight] = call;
  forward.x = o.activation({c.rows, c.in}, -1, 1, c.row_padding);
  forward.weight = o.activation({c.out, c.in});
  if (c.bias) forward.bias = o.input({c.out});
  forward.y = o.assigned_activation({c.rows, c.out}, c.row_padding);
  const Tensor dy = o.activation({c.rows, c.out}, -1, 1, c.row_padding);
  backward_input = {dy, forward.weight, o.assigned_activation({c.rows, c.in}, c.row_padding)};
  backward_weight = {dy, forward.x, o.accumulated({c.out, c.in}), {}};
  if (c.bias) backward_weight.dbias = o.accumulated({c.out});
  return call;
}

void run(Device& device, const Call& call) {
  linear_forward(device, call.forward);
  linear_backward_input(device, call.backward_input);
  linear_backward_weight(device, call.backward_weight);
}

TEST(Linear, AgreesWithRef) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.rows << " rows, " << c.in << " to " << c.out);
    const auto longest = static_cast<double>(std::max({c.rows, c.in, c.out}));
    const auto call = [&](Device& device, Operands& o) { run(device, make_call(o, c)); };
    expect_backends_agree(call, kEpsilon * (longest + 2));
    expect_cuda_agrees(call, kEpsilon * (longest + 2), 1, DType::f32, Guarded::kAligned);
    expect_cuda_agrees_in_bf16(call, kEpsilon * (longest + 2));
  }
}

TEST(Linear, CudaTakesWeightsOf16BitsInFloat) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  for (const DType narrow : {DType::bf16, DType::f16}) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(::testing::Message() << c.rows << " rows, " << c.in << " to " << c.out);
      const auto call = [&](Device& device, Operands& o) {
        const Tensor x = o.input({c.rows, c.in}), weight = o.activation({c.out, c.in});
        linear_forward(device, {x, weight, {}, o.assigned({c.rows, c.out})});
      };
      const double tolerance = kEpsilon * static_cast<double>(c.in + 2);
      expect_cuda_agrees(call, tolerance, 1, narrow, Guarded::kAligned);
    }
  }
}

// As a head is in training: of float32 weights, which have been numbers of bf16 here.
TEST(Linear, CudaGivesLogitsOfBf16InFloat) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.rows << " rows, " << c.in << " to " << c.out);
    const auto call = [&](Device& device, Operands& o) {
      const Tensor narrow = o.activation({c.out, c.in});
      LinearForward forward = {o.activation({c.rows, c.in}), o.handed_on(narrow.shape()), {}, {}};
      copy(device, {narrow, forward.weight});
      if (c.bias) forward.bias = o.input({c.out});
      forward.y = o.assigned({c.rows, c.out});
      linear_forward(device, forward);
    };
    expect_cuda_agrees(call, kEpsilon * static_cast<double>(c.in + 2), 1, DType::bf16);
  }
}

TEST(Linear, GradientsOfInputsAreAddedWhereAsked) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.rows << " rows, " << c.in << " to " << c.out);
    const auto call = [&](Device& device, Operands& o) {
      linear_backward_input(device,
                            {o.input({c.rows, c.out}, -1, 1, c.row_padding), o.input({c.out, c.in}),
                             o.accumulated({c.rows, c.in}, c.row_padding), true});
    };
    expect_backends_agree(call, kEpsilon * static_cast<double>(c.out + 2));
  }
}

TEST(Linear, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  Operands o(DType::f64);
  const Call call = make_call(o, {3, 4, 5, true});
  run(ref, call);
  const LinearForward& forward = call.forward;
  const LinearBackwardWeight backward = {call.backward_weight.dy, forward.x,
                                         ref.zeros(DType::f64, {5, 4}), ref.zeros(DType::f64, {5})};
  linear_backward_weight(ref, backward);
  const auto loss = [&] {
    linear_forward(ref, forward);
    return weighted_sum(forward.y, backward.dy);
  };
  expect_gradient(forward.x, call.backward_input.dx, loss, "x");
  expect_gradient(forward.weight, backward.dweight, loss, "weight");
  expect_gradient(forward.bias, backward.dbias, loss, "bias");
}

// `t` rounded to a dtype of 16 bits, and that as double.
Tensor rounded(Device& device, const Tensor& t, DType dtype) {
  const Tensor out = device.empty(dtype, t.shape());
  convert_elements(t.dtype(), t.raw(), dtype, out.raw(), t.numel());
  return out;
}
Tensor in_double(Device& device, const Tensor& t) {
  const Tensor out = device.empty(DType::f64, t.shape());
  convert_elements(t.dtype(), t.raw(), DType::f64, out.raw(), t.numel());
  return out;
}

// A row's result is that of the row alone: decoding a batch gives each sequence its own bits. So is
// a column's, wherever it stands: threads share them as they come.
TEST(Linear, FewRowsAreIndependent) {
  Device cpu("cpu", 1), threads("cpu", 3);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(name_of(dtype));
    Operands o(DType::f32);
    const Tensor x = o.input({8, 130}), bias = o.input({999});
    const Tensor weight = rounded(cpu, o.input({999, 130}), dtype);
    const Tensor alone = o.assigned({8, 999});
    for (int64_t r = 0; r < 8; ++r) {
      linear_forward(cpu, {x.rows(r, r + 1), weight, bias, alone.rows(r, r + 1)});
    }
    for (int64_t rows = 2; rows <= 8; ++rows) {
      const Tensor y = o.assigned({rows, 999});
      linear_forward(threads, {x.rows(0, rows), weight, bias, y});
      EXPECT_EQ(values(y), values(alone.rows(0, rows))) << rows << " rows";
    }
    const Tensor last = o.assigned({8, 1});
    linear_forward(cpu, {x, weight.rows(998, 999), o.input({1}, 0, 0), last});
    linear_forward(cpu, {x, weight, {}, alone});
    for (int64_t r = 0; r < 8; ++r) EXPECT_EQ(get(last, r), get(alone, r * 999 + 998));
  }
}

// With bf16, x too may have been rounded to it.
double narrow_tolerance(const Case& c, DType dtype) {
  constexpr double kRounding = 1.0 / 256;  // to bf16
  const auto length = static_cast<double>(c.in);
  const double rounding = kEpsilon * (length + 2);
  return dtype == DType::bf16 ? rounding + kRounding * std::sqrt(length) : rounding;
}

TEST(Linear, NarrowWeightsAgreeWithRefInDouble) {
  Device cpu("cpu", 2), ref("ref", 1);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(::testing::Message()
                   << name_of(dtype) << ", " << c.rows << " rows, " << c.in << " to " << c.out);
      Operands o(DType::f32);
      Call call = make_call(o, {c.rows, c.in, c.out, c.bias});
      const Tensor weight = rounded(cpu, call.forward.weight, dtype);
      const LinearForward wide = {in_double(ref, call.forward.x), in_double(ref, weight),
                                  c.bias ? in_double(ref, call.forward.bias) : Tensor(),
                                  ref.zeros(DType::f64, {c.rows, c.out})};
      linear_forward(ref, wide);
      const LinearBackwardInput wide_back = {in_double(ref, call.backward_input.dy), wide.weight,
                                             ref.zeros(DType::f64, {c.rows, c.in})};
      linear_backward_input(ref, wide_back);
      for (Device* device : {&cpu, &ref}) {
        call.forward.weight = call.backward_input.weight = weight;
        linear_forward(*device, call.forward);
        linear_backward_input(*device, call.backward_input);
        o.expect_guards_intact();
        expect_close(call.forward.y, wide.y, narrow_tolerance(c, dtype), "y");
        expect_close(call.backward_input.dx, wide_back.dx,
                     kEpsilon * static_cast<double>(c.out + 2), "dx");
      }
    }
  }
}

// Where x is rounded, it is to the nearest bf16: sums of products of bf16 are then those of ref.
TEST(Linear, RowsOfBf16AreExactFactors) {
  Device cpu("cpu", 2), ref("ref", 1);
  for (const int64_t rows : {1, 2, 3, 5, 8, 40}) {
    Operands o(DType::f32);
    const Tensor x = o.input({rows, 130}), weight = rounded(cpu, o.input({33, 130}), DType::bf16);
    const Tensor exact = rounded(cpu, x, DType::bf16), same = cpu.empty(DType::f32, x.shape());
    convert_elements(DType::bf16, exact.raw(), DType::f32, same.raw(), same.numel());
    const Tensor y = o.assigned({rows, 33}), expected = ref.zeros(DType::f64, {rows, 33});
    linear_forward(cpu, {same, weight, {}, y});
    linear_forward(ref, {in_double(ref, same), in_double(ref, weight), {}, expected});
    expect_close(y, expected, 132 * kEpsilon, "y");
  }
}

TEST(Linear, WhatIsNotFinitePropagates) {
  Device cpu("cpu", 2);
  for (const int64_t rows : {1, 5, 40}) {
    for (const double bad : {std::nan(""), static_cast<double>(INFINITY)}) {
      Operands o(DType::f32);
      const Call call = make_call(o, {rows, 20, 24});
      call.forward.x.data<float>()[(rows - 1) * 20 + 19] = static_cast<float>(bad);
      call.backward_input.dy.data<float>()[(rows - 1) * 24 + 23] = static_cast<float>(bad);
      run(cpu, call);
      for (int64_t n = 0; n < 24; ++n) {
        EXPECT_FALSE(std::isfinite(call.forward.y.data<float>()[(rows - 1) * 24 + n]));
        EXPECT_EQ(rows == 1, !std::isfinite(call.forward.y.data<float>()[n]));
      }
      for (int64_t k = 0; k < 20; ++k) {
        EXPECT_FALSE(std::isfinite(call.backward_input.dx.data<float>()[(rows - 1) * 20 + k]));
        EXPECT_FALSE(std::isfinite(call.backward_weight.dweight.data<float>()[23 * 20 + k]));
      }
    }
  }
}

}  // namespace
}  // namespace elapse

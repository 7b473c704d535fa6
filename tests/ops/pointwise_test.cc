// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/pointwise.h"

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Layout {
  Shape shape;
  int64_t row_padding = 0;
};

const Layout kLayouts[] = {
    {{0, 5}},   {{1}},         {{15}},          {{16}},         {{17}},
    {{3, 130}}, {{3, 130}, 7}, {{2, 3, 5}, 2},  {{40000}},      {{7, 5000}, 1},
    {{2, 1}},   {{5, 1}, 3},   {{1, 20000}, 5}, {{2, 2, 3, 4}},
};

constexpr Unary kUnaries[] = {
    Unary::exp,          Unary::neg_exp,    Unary::relu,    Unary::silu, Unary::softplus,
    Unary::gelu,         Unary::gelu_tanh,  Unary::sigmoid, Unary::tanh, Unary::log_sigmoid,
    Unary::elu_plus_one, Unary::reciprocal, Unary::sine};
// The slope of SiLU, s (1 + x (1 - s)), has the rounding of s times x, which is below 24.
constexpr double kUnaryTolerance = (8 + 24) * kEpsilon;

TEST(Pointwise, FillAndCopy) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(layout.shape.str());
    const auto call = [&](Device& device, Operands& o) {
      fill(device, {o.assigned(layout.shape, layout.row_padding), 0.375});
      const Tensor x = o.input(layout.shape, -1, 1, layout.row_padding);
      copy(device, {x, o.assigned(layout.shape)});
      copy(device, {x, o.assigned(layout.shape, 3)});
    };
    expect_backends_agree(call, 0);
  }
}

TEST(Pointwise, CudaFillsCopiesAndAddsInBf16) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  const auto call = [](Device& device, Operands& o) {
    const Shape shape = {7, 33};
    const Tensor x = o.activation(shape, -1, 1, 2), y = o.activation(shape), wide = o.input(shape);
    copy(device, {x, o.assigned(shape)});  // widened
    copy(device, {x, o.assigned_activation(shape, 3)});
    copy(device, {wide, o.assigned_activation(shape)});
    fill(device, {o.assigned_activation(shape, 1), 0.75});
    for (const BinaryFunction function : {BinaryFunction::add, BinaryFunction::mul}) {
      binary(device, {function, x, y, o.assigned_activation(shape)});
    }
  };
  expect_cuda_agrees_in_bf16(call, 0);
}

TEST(Pointwise, CudaAddsTensorsWithoutGaps) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  const auto call = [](Device& device, Operands& o) {
    for (const int64_t n : {2, 3, 2046, 2048, 2050, 5000}) {
      const Tensor x = o.activation({n}), y = o.activation({n});
      binary(device, {BinaryFunction::add, x, y, o.assigned_activation({n})});
      binary(device, {BinaryFunction::mul, x, y, y});
    }
  };
  expect_cuda_agrees(call, kEpsilon, 1, DType::f32, Guarded::kAligned);
  expect_cuda_agrees_in_bf16(call, 0);
}

TEST(Pointwise, CopyConvertsBetweenFloatAndDouble) {
  Device cpu("cpu", 2);
  Operands narrow(DType::f32), wide(DType::f64);
  const Tensor x = wide.input({3, 37}, -1, 1, 2);
  const Tensor as_float = narrow.assigned({3, 37}, 1), back = wide.assigned({3, 37});
  copy(cpu, {x, as_float});
  copy(cpu, {as_float, back});
  EXPECT_EQ(values(as_float), values(x));  // the operands hold floats
  EXPECT_EQ(values(back), values(x));
  narrow.expect_guards_intact();
}

TEST(Pointwise, UnaryAgreesWithRef) {
  for (const Layout& layout : kLayouts) {
    for (const Unary function : kUnaries) {
      SCOPED_TRACE(layout.shape.str());
      const auto call = [&](Device& device, Operands& o) {
        const Tensor x = o.activation(layout.shape, -8, 24, layout.row_padding);
        const Tensor dy = o.activation(layout.shape);
        unary_forward(device,
                      {function, x, o.assigned_activation(layout.shape, layout.row_padding)});
        unary_backward(device, {function, x, dy, o.assigned_activation(layout.shape, 1)});
      };
      expect_backends_agree(call, kUnaryTolerance);
      expect_cuda_agrees_in_bf16(call, kUnaryTolerance);
    }
  }
}

TEST(Pointwise, BinaryAgreesWithRef) {
  for (const BinaryFunction function : {BinaryFunction::add, BinaryFunction::mul}) {
    for (const Layout& layout : kLayouts) {
      SCOPED_TRACE(layout.shape.str());
      const auto call = [&](Device& device, Operands& o) {
        const Tensor a = o.input(layout.shape, -1, 1, layout.row_padding);
        binary(device, {function, a, o.input(layout.shape), o.assigned(layout.shape, 2)});
        Shape one = layout.shape;
        one.set(0, std::min<int64_t>(one[0], 1));
        binary(device, {function, o.input(one), a, o.assigned(layout.shape)});
        one = layout.shape;
        one.set(-1, 1);
        binary(device, {function, a, o.input(one, -1, 1, 3), o.assigned(layout.shape)});
        const Tensor in_place = o.accumulated(layout.shape);
        binary(device, {function, in_place, a, in_place});
      };
      expect_backends_agree(call, kEpsilon);
    }
  }
}

TEST(Pointwise, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const Unary function : kUnaries) {
    Operands o(DType::f64);
    const double least = function == Unary::reciprocal ? 0.5 : -2;
    const Tensor x = o.input({7}, least, 2), dy = o.input({7});
    const Tensor y = o.assigned({7}), dx = o.assigned({7});
    unary_backward(ref, {function, x, dy, dx});
    const auto loss = [&] {
      unary_forward(ref, {function, x, y});
      return weighted_sum(y, dy);
    };
    expect_gradient(x, dx, loss, "x");
  }
}

TEST(Pointwise, ExtremesAsTheFormulasHaveThem) {
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 1);
    const Tensor x = device.upload<float>({-INFINITY, -200, 0, 19.5f, 21, 200, NAN}, {7});
    const Tensor y = device.empty(DType::f32, {7});
    const auto run = [&](Unary function) {
      unary_forward(device, {function, x, y});
      return values(y);
    };
    const auto exponential = run(Unary::exp);
    EXPECT_EQ(exponential[0], 0);
    EXPECT_EQ(exponential[1], 0);
    EXPECT_EQ(exponential[2], 1);
    EXPECT_EQ(exponential[5], INFINITY);
    EXPECT_TRUE(std::isnan(exponential[6]));
    const auto softplus = run(Unary::softplus);
    EXPECT_EQ(softplus[1], 0);
    EXPECT_NEAR(softplus[2], std::log(2.0), kEpsilon);
    EXPECT_EQ(softplus[4], 21);
    EXPECT_TRUE(std::isnan(softplus[6]));
    const auto relu = run(Unary::relu);
    EXPECT_EQ(relu[0], 0);
    EXPECT_EQ(relu[2], 0);
    EXPECT_EQ(relu[5], 200);
    EXPECT_TRUE(std::isnan(relu[6]));
    for (const Unary gate : {Unary::silu, Unary::gelu, Unary::gelu_tanh}) {
      const auto gated = run(gate);
      EXPECT_EQ(gated[1], 0);
      EXPECT_EQ(gated[2], 0);
      EXPECT_EQ(gated[5], 200);
      EXPECT_TRUE(std::isnan(gated[6]));
    }
    const auto sigmoid = run(Unary::sigmoid), tanh = run(Unary::tanh);
    EXPECT_EQ(sigmoid[1], 0);
    EXPECT_EQ(sigmoid[2], 0.5);
    EXPECT_EQ(sigmoid[5], 1);
    EXPECT_EQ(tanh[1], -1);
    EXPECT_EQ(tanh[2], 0);
    EXPECT_EQ(tanh[5], 1);
    const auto log_sigmoid = run(Unary::log_sigmoid), elu = run(Unary::elu_plus_one);
    EXPECT_EQ(log_sigmoid[1], -200);
    EXPECT_NEAR(log_sigmoid[2], -std::log(2.0), kEpsilon);
    EXPECT_EQ(log_sigmoid[5], 0);
    EXPECT_EQ(elu[1], 0);
    EXPECT_EQ(elu[2], 1);
    EXPECT_EQ(elu[5], 201);
    const auto sine = run(Unary::sine);
    EXPECT_TRUE(std::isnan(sine[0]));
    EXPECT_NEAR(sine[1], std::sin(-200.0), kEpsilon);
    EXPECT_EQ(sine[2], 0);
    for (const auto& values : {sigmoid, tanh, log_sigmoid, elu, sine, run(Unary::reciprocal)}) {
      EXPECT_TRUE(std::isnan(values[6]));
    }
  }
}

TEST(Pointwise, SumToAgreesWithRef) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(layout.shape.str());
    const auto call = [&](Device& device, Operands& o) {
      const Tensor x = o.activation(layout.shape, -1, 1, layout.row_padding);
      for (int axis = 0; axis < layout.shape.rank(); ++axis) {
        Shape one = layout.shape;
        one.set(axis, std::min<int64_t>(one[axis], 1));
        sum_to(device, {x, o.assigned_activation(one)});
        if (axis > 0) sum_to(device, {x, o.assigned_activation(one, 3)});
      }
    };
    // As many numbers of size 1 as the longest axis has.
    expect_backends_agree(call, 200 * kEpsilon);
    expect_cuda_agrees_in_bf16(call, 200 * kEpsilon);
  }
}

TEST(Pointwise, SwigluAgreesWithRef) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(layout.shape.str());
    const auto call = [&](Device& device, Operands& o) {
      const Tensor a = o.activation(layout.shape, -8, 24, layout.row_padding);
      const Tensor b = o.activation(layout.shape), dy = o.activation(layout.shape, -1, 1, 3);
      swiglu_forward(device, {a, b, o.assigned_activation(layout.shape, 1)});
      swiglu_backward(device, {a, b, dy, o.assigned_activation(layout.shape, layout.row_padding),
                               o.assigned_activation(layout.shape, 2)});
    };
    expect_backends_agree(call, kUnaryTolerance);
    expect_cuda_agrees_in_bf16(call, kUnaryTolerance);
  }
}

TEST(Pointwise, GradientsOfSwigluAreThoseOfFiniteDifferences) {
  Device ref("ref");
  Operands o(DType::f64);
  const Tensor a = o.input({3, 5}, -2, 2, 1), b = o.input({3, 5}), dy = o.input({3, 5});
  const Tensor y = o.assigned({3, 5}), da = o.assigned({3, 5}), db = o.assigned({3, 5});
  swiglu_backward(ref, {a, b, dy, da, db});
  const auto loss = [&] {
    swiglu_forward(ref, {a, b, y});
    return weighted_sum(y, dy);
  };
  expect_gradient(a, da, loss, "a");
  expect_gradient(b, db, loss, "b");
}

TEST(Pointwise, SumTo) {
  Device ref("ref");
  Operands o(DType::f64);
  const Tensor x = o.input({3, 4, 5}, -1, 1, 2);
  const Tensor all = o.assigned({1, 1, 1}), middle = o.assigned({3, 1, 5});
  sum_to(ref, {x, all});
  sum_to(ref, {x, middle});
  const auto v = values(x), m = values(middle);
  double sum = 0;
  for (double value : v) sum += value;
  EXPECT_NEAR(values(all)[0], sum, 1e-12);
  for (size_t i = 0; i < 3; ++i) {
    for (size_t k = 0; k < 5; ++k) {
      double expected = 0;
      for (size_t j = 0; j < 4; ++j) expected += v[(i * 4 + j) * 5 + k];
      EXPECT_NEAR(m[i * 5 + k], expected, 1e-12);
    }
  }
}

}  // namespace
}  // namespace elapse

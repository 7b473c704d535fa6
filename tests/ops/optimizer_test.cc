// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/optimizer.h"

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

const int64_t kSizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 130, 16384, 16385, 40000};

AdamW make_call(Operands& o, bool clips) {
  AdamW args;
  for (const int64_t n : kSizes) {
    AdamWTensor t = {o.accumulated({n}), o.input({n}), o.accumulated({n}), o.accumulated({n}),
                     n % 2 == 1};
    for_each_offset(t.v, [&](int64_t i) { put(t.v, i, std::abs(get(t.v, i))); });
    args.tensors.push_back(t);
  }
  if (clips) {
    args.norm_squared = o.output_of(DType::f64, {1});
    args.norm_squared.data<double>()[0] = 30;
  }
  args.lr = 0.01;
  args.weight_decay = 0.1;
  args.step = 3;
  return args;
}

TEST(AdamW, AgreesWithRef) {
  for (const bool clips : {false, true}) {
    // A handful of roundings, of terms below 2; the step is divided by at least sqrt(v) ~ 0.01.
    expect_backends_agree([&](Device& device, Operands& o) { adamw(device, make_call(o, clips)); },
                          32 * kEpsilon);
  }
}

// One step by hand, from the formula of the paper.
TEST(AdamW, OneStepByHand) {
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 1);
    const auto scalar = [&](float value) { return device.upload<float>({value}, {1}); };
    AdamW args;
    args.tensors = {{scalar(2.0f), scalar(0.5f), scalar(0.1f), scalar(0.04f), true}};
    args.lr = 0.1;
    args.beta1 = 0.9;
    args.beta2 = 0.99;
    args.weight_decay = 0.01;
    args.step = 2;
    adamw(device, args);
    const double m = 0.9 * 0.1 + 0.1 * 0.5, v = 0.99 * 0.04 + 0.01 * 0.25;
    const double m_hat = m / (1 - 0.81), v_hat = v / (1 - 0.9801);
    const double expected = 2 - 0.1 * 0.01 * 2 - 0.1 * m_hat / (std::sqrt(v_hat) + 1e-8);
    EXPECT_NEAR(args.tensors[0].param.data<float>()[0], expected, 4 * kEpsilon);
    EXPECT_NEAR(args.tensors[0].m.data<float>()[0], m, kEpsilon);
    EXPECT_NEAR(args.tensors[0].v.data<float>()[0], v, kEpsilon);
  }
}

TEST(AdamW, ClipsOnlyWhatIsTooLong) {
  Device cpu("cpu", 1);
  const auto m_after = [&](double norm_squared) {
    const auto scalar = [&](float value) { return cpu.upload<float>({value}, {1}); };
    AdamW args;
    args.tensors = {{scalar(0), scalar(1), scalar(0), scalar(0), false}};
    args.norm_squared = cpu.upload<double>({norm_squared}, {1});
    args.beta1 = 0;
    adamw(cpu, args);
    return args.tensors[0].m.data<float>()[0];
  };
  EXPECT_EQ(m_after(0.25), 1);
  EXPECT_NEAR(m_after(16), 0.25, 1e-6);
}

// More than one launch of cuda's has room for.
TEST(AdamW, AgreesWithRefOnManyTensors) {
  const auto call = [](Device& device, Operands& o) {
    AdamW args;
    SumOfSquares sum;
    for (int64_t i = 0; i < 1001; ++i) {
      const int64_t n = i % 7;
      args.tensors.push_back(
          {o.accumulated({n}), o.input({n}), o.accumulated({n}), o.accumulated({n}), i % 2 == 1});
      const Tensor& v = args.tensors.back().v;
      for_each_offset(v, [&](int64_t at) { put(v, at, std::abs(get(v, at))); });
      sum.tensors.push_back(args.tensors.back().grad);
    }
    sum.out = o.output_of(DType::f64, {1});
    sum_of_squares(device, sum);
    args.norm_squared = sum.out;
    adamw(device, args);
  };
  expect_backends_agree(call, 32 * kEpsilon);
}

TEST(SumOfSquares, AgreesWithRef) {
  const auto call = [](Device& device, Operands& o) {
    SumOfSquares args;
    for (const int64_t n : kSizes) args.tensors.push_back(o.input({n}));
    args.out = o.output_of(DType::f64, {1});
    sum_of_squares(device, args);
  };
  expect_backends_agree(call, 1e-12);  // both in double
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/long_conv.h"

#include "elapse/backends/cpu/convolution_plan.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  std::vector<int64_t> lengths;
  int64_t d_inner, filter_len;
  int64_t row_padding = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}, 16, 4},
      {{0}, 5, 1},
      {{1}, 1, 1},
      {{1, 1, 1}, 33, 7},
      {{2, 3, 4, 5, 6}, 17, 3},
      {{31, 0, 33, 64, 65, 97}, 31, 1000, 5},
      {{127, 1, 128, 129, 128}, 20, 64, 3},
      {{1021}, 16, 1021},
      {{1024, 1000, 24, 700}, 16, 1024},
  };
  return list;
}

struct Call {
  LongConvForward forward;
  LongConvBackward backward;
};

Call make_call(Device& device, Operands& o, const Case& c) {
  const Sequences seqs = make_sequences(device, c.lengths);
  const Shape shape = {seqs.tokens, c.d_inner};
  const Tensor x = o.activation(shape, -1, 1, c.row_padding);
  const Tensor K = o.input({c.d_inner, c.filter_len});
  const Tensor dy = o.activation(shape, -1, 1, c.row_padding);
  const auto out = [&] { return o.assigned_activation(shape, c.row_padding); };
  const LongConvForward forward = {x, K, seqs, out()};
  return {forward, {dy, x, K, seqs, out(), o.accumulated(K.shape())}};
}

void run(Device& device, const Call& call) {
  long_conv_forward(device, call.forward);
  long_conv_backward(device, call.backward);
}

TEST(LongConv, AgreesWithRef) {
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    const Case& c = cases()[i];
    int64_t longest = 1, tokens = 0;
    for (const int64_t len : c.lengths) {
      longest = std::max(longest, len);
      tokens += len;
    }
    // Each pass adds an error of one rounding of a signal's root mean square; results are sums of
    // up to as many products as there are tokens.
    const double passes = std::log2(static_cast<double>(longest)) + 4;
    const double tolerance = kEpsilon * passes * std::sqrt(static_cast<double>(tokens + 1));
    const auto call = [&](Device& device, Operands& o) { run(device, make_call(device, o, c)); };
    expect_backends_agree(call, tolerance);
    expect_cuda_agrees_in_bf16(call, tolerance);
  }
}

TEST(LongConv, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const int64_t filter_len : {1, 4, 9}) {
    Operands o(DType::f64);
    const Call call = make_call(ref, o, {{5, 0, 7}, 3, filter_len});
    const auto& forward = call.forward;
    const auto& backward = call.backward;
    const auto loss = [&] {
      long_conv_forward(ref, forward);
      return weighted_sum(forward.y, backward.dy);
    };
    std::fill_n(backward.dK.data<double>(), backward.dK.numel(), 0.0);
    run(ref, call);
    expect_gradient(forward.x, backward.dx, loss, "x");
    expect_gradient(forward.K, backward.dK, loss, "K");
  }
}

// Of a convolution without its definition's len^2: twice the length costs little more than twice.
TEST(LongConv, OperationsGrowAsLenLogLen) {
  for (int64_t len = 16; len <= int64_t{1} << 20; len *= 2) {
    const auto operations = [](int64_t n) {
      return static_cast<double>(cpu::transform_operations(cpu::transform_size(2 * n - 1)));
    };
    const double per_len = operations(len) / static_cast<double>(len);
    EXPECT_LE(per_len, 8.5 * (std::log2(static_cast<double>(len)) + 1)) << len;
    if (len < 1024) continue;
    EXPECT_LE(operations(2 * len), 2.3 * operations(len)) << len;
  }
}

TEST(LongConv, TransformSizesHoldWhatIsAsked) {
  for (int64_t count = 1; count < 5000; ++count) {
    const int64_t size = cpu::transform_size(count);
    EXPECT_GE(size, count);
    EXPECT_LE(2 * size, 3 * std::max<int64_t>(3, count)) << count;
  }
}

// Sequences of very different sizes share transforms: each is as exact as alone.
TEST(LongConv, ANeighboursSizeIsNoMatter) {
  constexpr int64_t kLen = 256, kChannels = 18;
  const auto in = [&](DType dtype, const char* name, std::vector<double> sizes) {
    Device device(name, 1);
    Operands o(dtype);
    const Call call = make_call(device, o, {{kLen, kLen, kLen}, kChannels, kLen});
    for (int64_t s = 0; s < 3; ++s) {
      for (int64_t i = s * kLen * kChannels; i < (s + 1) * kLen * kChannels; ++i) {
        put(call.forward.x, i, get(call.forward.x, i) * sizes[static_cast<size_t>(s)]);
        put(call.backward.dy, i, get(call.backward.dy, i) / sizes[static_cast<size_t>(s)]);
      }
    }
    run(device, call);
    return std::vector{values(call.forward.y), values(call.backward.dx), values(call.backward.dK)};
  };
  const double tolerance = 12 * kEpsilon * std::sqrt(double(3 * kLen));
  for (const double size : {0x1p-40, 0x1p-20, 1.0, 0x1p20, 0x1p40}) {
    const std::vector<double> sizes = {1, size, 1};
    const auto found = in(DType::f32, "cpu", sizes), expected = in(DType::f64, "ref", sizes);
    for (size_t k = 0; k < found.size(); ++k) {
      for (size_t i = 0; i < found[k].size(); ++i) {
        const double of_sequence = k == 2 ? 1 : sizes[i / (kLen * kChannels)];
        const double unit = k == 1 ? 1 / of_sequence : of_sequence;
        ASSERT_LE(std::abs(found[k][i] - expected[k][i]),
                  tolerance * std::max(unit, std::abs(expected[k][i])))
            << "output " << k << " element " << i << " beside " << size;
      }
    }
  }
}

TEST(LongConv, WhatIsNotFiniteStaysInItsSequence) {
  constexpr int64_t kLen = 65, kChannels = 18;
  Device cpu("cpu", 1);
  const auto outputs = [&](double value, bool in_x) {
    Operands o(DType::f32);
    const Call call = make_call(cpu, o, {{kLen, kLen, kLen}, kChannels, kLen});
    put(in_x ? call.forward.x : call.backward.dy, (kLen + 3) * kChannels + 17, value);
    run(cpu, call);
    return std::pair(values(call.forward.y), values(call.backward.dx));
  };
  const auto expect_others = [&](const std::vector<double>& found) {
    for (int64_t i = 0; i < std::ssize(found); ++i) {
      const bool reached = i / (kLen * kChannels) == 1 && i % kChannels == 17;
      ASSERT_EQ(std::isfinite(found[static_cast<size_t>(i)]), !reached) << i;
    }
  };
  for (const double value : {double(INFINITY), -double(INFINITY), std::nan("")}) {
    expect_others(outputs(value, true).first);
    expect_others(outputs(value, false).second);
  }
}

TEST(LongConv, RefusesWhatDoesNotFit) {
  Device ref("ref");
  Operands o(DType::f64);
  Call call = make_call(ref, o, {{4}, 3, 2});
  call.forward.y = o.assigned({4, 2});
  EXPECT_THROW(long_conv_forward(ref, call.forward), Error);
  call.backward.dK = o.accumulated({3, 3});
  EXPECT_THROW(long_conv_backward(ref, call.backward), Error);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// The cpu backend stores results past the caches where they are large: the same bits as those of
// the halves, which are not.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "elapse/ops/causal_conv.h"
#include "elapse/ops/layer_norm.h"
#include "elapse/ops/pointwise.h"
#include "elapse/ops/rms_norm.h"

namespace elapse {
namespace {

constexpr int64_t kHalf = 4100, kWidth = 1040;  // rows; floats: 64-byte aligned rows

class Streaming : public ::testing::Test {
 protected:
  Tensor input(Shape shape, int64_t period) {
    const Tensor t = cpu_.empty(DType::f32, shape);
    float* data = t.data<float>();
    for (int64_t i = 0; i < t.numel(); ++i) {
      data[i] = static_cast<float>(i % period) / static_cast<float>(period) - 0.4f;
    }
    return t;
  }
  Tensor output() { return cpu_.zeros(DType::f32, {2 * kHalf, kWidth}); }
  Sequences sequences(int64_t count) {
    return make_sequences(cpu_, std::vector<int64_t>(static_cast<size_t>(count), kHalf));
  }

  // call(begin, end, result) computes rows [begin, end) of what it assigns to result's.
  void expect_halves_agree(const std::function<void(int64_t, int64_t, const Tensor&)>& call) {
    const Tensor whole = output(), halves = output();
    call(0, 2 * kHalf, whole);
    call(0, kHalf, halves.rows(0, kHalf));
    call(kHalf, 2 * kHalf, halves.rows(kHalf, 2 * kHalf));
    EXPECT_TRUE(
        std::equal(whole.data<float>(), whole.data<float>() + whole.numel(), halves.data<float>()));
    EXPECT_NE(whole.data<float>()[whole.numel() - 1], 0);
  }

  Device cpu_{"cpu", 2};
  const Tensor x_ = input({2 * kHalf, kWidth}, 9973), dy_ = input({2 * kHalf, kWidth}, 7919);
  const Tensor one_row_ = input({kWidth}, 101), weight_ = input({kWidth, 4}, 211);
};

TEST_F(Streaming, Silu) {
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& y) {
    unary_forward(cpu_, {Unary::silu, x_.rows(begin, end), y});
  });
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& dx) {
    unary_backward(cpu_, {Unary::silu, x_.rows(begin, end), dy_.rows(begin, end), dx});
  });
}

TEST_F(Streaming, RmsNorm) {
  const Tensor scale = cpu_.zeros(DType::f32, {2 * kHalf, 1}), other = output();
  const auto forward = [&](int64_t begin, int64_t end, const Tensor& sum, const Tensor& y) {
    rms_norm_forward(cpu_, {.x = x_.rows(begin, end),
                            .residual = dy_.rows(begin, end),
                            .weight = one_row_,
                            .sum = sum,
                            .scale = scale.rows(begin, end),
                            .y = y,
                            .scale_tap = {}});
  };
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& y) {
    forward(begin, end, other.rows(begin, end), y);
  });
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& sum) {
    forward(begin, end, sum, other.rows(begin, end));
  });
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& dsum_total) {
    rms_norm_backward(cpu_, {.dy = dy_.rows(begin, end),
                             .dsum = {},
                             .sum = x_.rows(begin, end),
                             .weight = one_row_,
                             .scale = scale.rows(begin, end),
                             .scale_tap = {},
                             .dsum_total = dsum_total,
                             .dx = {},
                             .dweight = cpu_.zeros(DType::f32, {kWidth})});
  });
}

TEST_F(Streaming, LayerNorm) {
  const Tensor mean = cpu_.zeros(DType::f32, {2 * kHalf, 1});
  const Tensor scale = cpu_.zeros(DType::f32, {2 * kHalf, 1}), sum = output();
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& y) {
    layer_norm_forward(cpu_, {.x = x_.rows(begin, end),
                              .residual = dy_.rows(begin, end),
                              .weight = one_row_,
                              .bias = one_row_,
                              .sum = sum.rows(begin, end),
                              .mean = mean.rows(begin, end),
                              .scale = scale.rows(begin, end),
                              .y = y,
                              .scale_tap = {}});
  });
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& dsum_total) {
    layer_norm_backward(cpu_, {.dy = dy_.rows(begin, end),
                               .dsum = {},
                               .sum = sum.rows(begin, end),
                               .weight = one_row_,
                               .mean = mean.rows(begin, end),
                               .scale = scale.rows(begin, end),
                               .scale_tap = {},
                               .dsum_total = dsum_total,
                               .dweight = cpu_.zeros(DType::f32, {kWidth}),
                               .dbias = cpu_.zeros(DType::f32, {kWidth})});
  });
}

TEST_F(Streaming, Swiglu) {
  const Tensor other = output();
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& y) {
    swiglu_forward(cpu_, {x_.rows(begin, end), dy_.rows(begin, end), y});
  });
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& da) {
    swiglu_backward(cpu_, {x_.rows(begin, end), dy_.rows(begin, end), x_.rows(begin, end), da,
                           other.rows(begin, end)});
  });
}

TEST_F(Streaming, CausalConv) {
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& y) {
    causal_conv_forward(cpu_, {.x = x_.rows(begin, end),
                               .weight = weight_,
                               .bias = one_row_,
                               .seqs = sequences((end - begin) / kHalf),
                               .pool = {},
                               .saved_start = {},
                               .y = y,
                               .taps = {}});
  });
  expect_halves_agree([&](int64_t begin, int64_t end, const Tensor& dx) {
    causal_conv_backward(cpu_, {.dy = dy_.rows(begin, end),
                                .x = x_.rows(begin, end),
                                .weight = weight_,
                                .bias = one_row_,
                                .seqs = sequences((end - begin) / kHalf),
                                .saved_start = {},
                                .taps = {},
                                .dx = dx,
                                .dweight = cpu_.zeros(DType::f32, {kWidth, 4}),
                                .dbias = cpu_.zeros(DType::f32, {kWidth}),
                                .dpool = {}});
  });
}

}  // namespace
}  // namespace elapse

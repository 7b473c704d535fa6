// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/random_readouts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/core/error.h"
#include "elapse/experiments/ridge.h"
#include "elapse/experiments/universal_and_tables.h"

namespace elapse {
namespace {

using Matrix = std::vector<std::vector<double>>;

// By Gaussian elimination with pivots.
std::vector<double> solve(Matrix A, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t j = 0; j < n; ++j) {
    size_t pivot = j;
    for (size_t r = j; r < n; ++r) {
      if (std::abs(A[r][j]) > std::abs(A[pivot][j])) pivot = r;
    }
    std::swap(A[j], A[pivot]);
    std::swap(b[j], b[pivot]);
    for (size_t r = 0; r < n; ++r) {
      if (r == j) continue;
      const double f = A[r][j] / A[j][j];
      for (size_t c = j; c < n; ++c) A[r][c] -= f * A[j][c];
      b[r] -= f * b[j];
    }
  }
  for (size_t j = 0; j < n; ++j) b[j] /= A[j][j];
  return b;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// More and fewer examples than features, and sizes around the blocks of four rows.
TEST(Ridge, IsWhatTheNormalEquationsOfTheFeaturesSay) {
  Random random(1);
  const size_t features = 4;
  for (size_t n = 1; n <= 11; ++n) {
    Matrix phi(n, std::vector<double>(features));
    std::vector<double> w(n), y(n), ridge, K;
    const double lambda = 0.03;
    for (size_t m = 0; m < n; ++m) {
      for (double& v : phi[m]) v = random.normal();
      w[m] = random.uniform(0.1, 1);
      y[m] = random.normal();
      ridge.push_back(lambda / w[m]);
    }
    for (size_t m = 0; m < n; ++m) {
      for (size_t o = 0; o < n; ++o) K.push_back(dot(phi[m], phi[o]));
    }
    std::vector<double> Y;  // two right sides
    for (const double v : y) Y.insert(Y.end(), {v, -3 * v});
    const std::vector<double> A = solve_ridge(K, ridge, Y);

    Matrix normal(features, std::vector<double>(features));
    std::vector<double> right(features);
    for (size_t f = 0; f < features; ++f) {
      normal[f][f] = lambda;
      for (size_t m = 0; m < n; ++m) {
        for (size_t g = 0; g < features; ++g) normal[f][g] += w[m] * phi[m][f] * phi[m][g];
        right[f] += w[m] * phi[m][f] * y[m];
      }
    }
    const std::vector<double> r = solve(normal, right);
    for (size_t f = 0; f < features; ++f) {
      double first = 0, second = 0;
      for (size_t m = 0; m < n; ++m) {
        first += A[2 * m] * phi[m][f];
        second += A[2 * m + 1] * phi[m][f];
      }
      EXPECT_NEAR(first, r[f], 1e-10) << n;
      EXPECT_NEAR(second, -3 * r[f], 1e-10) << n;
    }
  }
}

TEST(Ridge, WhatIsNotPositiveDefiniteIsRefused) {
  EXPECT_THROW(solve_ridge({1, 2, 2, 1}, {0.1, 0.1}, {1, 1}), Error);
}

TEST(PairKernels, AreTheFeaturesProducts) {
  Device device("cpu", 2);
  const std::vector<OnList> inputs = {{0, 2, 3}, {1, 2, 4}, {0, 2, 4}};
  EXPECT_EQ(input_kernel(5)(inputs, 2), (std::vector<float>{3, 1, 1, 3, 2, 2}));

  const std::vector<float> W = {1, -2, 0.5F, 0, 1, -1, 1, 1, 1, 0}, b = {0.5F, -1};
  const auto a = [&](const OnList& on, size_t k) {
    double pre = static_cast<double>(b[k]);
    for (const int64_t i : on) pre += static_cast<double>(W[k * 5 + static_cast<size_t>(i)]);
    return std::max(0.0, pre);
  };
  const std::vector<float> kernel = layer_kernel(device, 5, W, b)(inputs, 2);
  ASSERT_EQ(kernel.size(), 6u);
  for (size_t m = 0; m < 3; ++m) {
    for (size_t n = 0; n < 2; ++n) {
      const double expected = a(inputs[m], 0) * a(inputs[n], 0) + a(inputs[m], 1) * a(inputs[n], 1);
      EXPECT_FLOAT_EQ(kernel[m * 2 + n], static_cast<float>(expected));
    }
  }
}

TEST(PairKernels, AWideLayersComesNearTheOneWithoutEnd) {
  Device device("cpu", 2);
  const int64_t d0 = 6, d = 40000;
  const std::vector<OnList> inputs = {{0, 1, 2}, {0, 1, 3}, {0, 3, 4}, {3, 4, 5}};
  Random random(1);
  std::vector<float> W(static_cast<size_t>(d * d0));
  for (float& w : W) w = static_cast<float>(random.normal() / std::sqrt(6.0));
  const std::vector<float> wide = wide_kernel(d0)(inputs, 1);
  const std::vector<float> layer =
      layer_kernel(device, d0, W, std::vector<float>(static_cast<size_t>(d)))(inputs, 1);
  for (size_t m = 0; m < 4; ++m) {
    EXPECT_NEAR(layer[m] / static_cast<float>(d), wide[m], 0.02F * wide[0]) << m;
  }
}

ReadoutSettings small_settings() {
  ReadoutSettings s;
  s.d0 = 24;
  s.widths = {64, 512};
  s.pairs = 6;
  s.train = {150, 150, 14};
  s.test = {100, 100, 8};
  return s;
}

TEST(RandomReadouts, AWiderLayerReadsBetterAndLotsAreNotRead) {
  Device device("cpu", 2);
  int64_t last = 0;
  const auto rows = measure_readouts(device, small_settings(), 1, [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, last + 1);
    EXPECT_EQ(total, 8);
    last = done;
  });
  EXPECT_EQ(last, 8);
  ASSERT_EQ(rows.size(), 8u);
  const double x = balanced_mean_square(rows[0].and_), narrow = balanced_mean_square(rows[1].and_),
               wide = balanced_mean_square(rows[2].and_);
  EXPECT_NEAR(x, 1.0 / 18, 0.02);  // derived, and some noise
  EXPECT_LT(wide, 0.5 * narrow);
  EXPECT_LT(wide, 0.25 * x);
  EXPECT_GT(balanced_mean_square(rows[0].xor_), 2.0 / 9 - 0.02);
  for (const ReadoutErrors& row : rows) {
    EXPECT_EQ(row.and_[kBoth].count, 6 * 8);
    EXPECT_EQ(row.and_[kNeither].count, 6 * 100);
    if (row.lots[kBoth].count > 0) {
      EXPECT_GT(balanced_mean_square(row.lots), 0.2);
    }
  }
}

// x's own read-outs, without the noise of few inputs.
TEST(RandomReadouts, OfXItselfAreTheBestThatIsLinear) {
  ReadoutSettings s = small_settings();
  s.train = {1000, 450, 20};
  s.test = {200, 10, 2};
  s.pairs = 12;
  const ReadoutErrors row = fit_readouts(input_kernel(s.d0), s, 1, 2);
  for (size_t c = 0; c < kPairClasses; ++c) {
    EXPECT_NEAR(row.and_[c].mean(), linear_read_errors(PairTarget::and_)[c], 0.06) << c;
    EXPECT_NEAR(row.xor_[c].mean(), linear_read_errors(PairTarget::xor_)[c], 0.12) << c;
  }
}

TEST(RandomReadouts, TheSameBitsOnAnyNumberOfThreads) {
  Device one("cpu", 1), many("cpu", 3);
  const auto a = measure_readouts(one, small_settings(), 2, [](int64_t, int64_t) {});
  const auto b = measure_readouts(many, small_settings(), 2, [](int64_t, int64_t) {});
  ASSERT_EQ(a.size(), b.size());
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t c = 0; c < kPairClasses; ++c) {
      EXPECT_EQ(a[r].and_[c].sum, b[r].and_[c].sum) << a[r].layer;
      EXPECT_EQ(a[r].lots[c].sum_squares, b[r].lots[c].sum_squares);
    }
  }
}

TEST(RandomReadouts, NonsenseIsRefused) {
  const auto refused = [](auto&& change) {
    ReadoutSettings s = small_settings();
    change(s);
    EXPECT_THROW(s.check(), Error);
  };
  EXPECT_NO_THROW(small_settings().check());
  refused([](ReadoutSettings& s) { s.ones = 1; });
  refused([](ReadoutSettings& s) { s.d0 = 4; });
  refused([](ReadoutSettings& s) { s.pairs = 0; });
  refused([](ReadoutSettings& s) { s.ridge = 0; });
  refused([](ReadoutSettings& s) { s.widths = {0}; });
  refused([](ReadoutSettings& s) { s.test[kBoth] = 9; });  // 22 inputs have both on
  refused([](ReadoutSettings& s) { s.train[kOne] = 0; });
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/diagonal_init.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

namespace elapse {
namespace {

std::vector<double> frequencies(DiagonalInit init, int64_t d_state) {
  std::vector<double> list;
  for (const std::complex<double>& a : diagonal_values(init, d_state)) {
    EXPECT_EQ(a.real(), -0.5);
    list.push_back(a.imag());
  }
  EXPECT_EQ(static_cast<int64_t>(list.size()), d_state / 2);
  return list;
}

// det(S - i w) = 0 for the antisymmetric part S of HiPPO-LegS' normal part: by elimination, with
// pivots.
double smallest_pivot(int64_t N, double frequency) {
  using Number = std::complex<double>;
  const auto count = static_cast<size_t>(N);
  std::vector<std::vector<Number>> m(count, std::vector<Number>(count));
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < N; ++k) {
      const double size = std::sqrt((double(n) + 0.5) * (double(k) + 0.5));
      m[size_t(n)][size_t(k)] = n == k ? Number(0, -frequency) : n > k ? -size : size;
    }
  }
  double smallest = INFINITY;
  for (size_t i = 0; i < count; ++i) {
    size_t pivot = i;
    for (size_t r = i; r < count; ++r) {
      if (std::abs(m[r][i]) > std::abs(m[pivot][i])) pivot = r;
    }
    std::swap(m[i], m[pivot]);
    smallest = std::min(smallest, std::abs(m[i][i]));
    for (size_t r = i + 1; r < count; ++r) {
      const Number factor = m[r][i] / m[i][i];
      for (size_t c = i; c < count; ++c) m[r][c] -= factor * m[i][c];
    }
  }
  return smallest;
}

TEST(DiagonalInit, LegSIsTheSpectrumOfHippo) {
  EXPECT_NEAR(frequencies(DiagonalInit::legs, 2).front(), std::sqrt(0.75), 1e-12);
  for (const int64_t N : {4, 16, 64}) {
    for (const double w : frequencies(DiagonalInit::legs, N)) {
      EXPECT_LT(smallest_pivot(N, w), 1e-6 * double(N)) << w;
      EXPECT_GT(smallest_pivot(N, 1.01 * w), 1e-4) << w;
    }
  }
}

// Of a trace: the sum of the squares of S' numbers is that of its frequencies', each twice.
TEST(DiagonalInit, LegSIsWholeAtTheLargestSizes) {
  for (const int64_t N : {256, 2048}) {
    const std::vector<double> list = frequencies(DiagonalInit::legs, N);
    EXPECT_TRUE(std::is_sorted(list.begin(), list.end(), std::less_equal<>()));
    double squares = 0, all = 0, diagonal = 0;
    for (const double w : list) squares += 2 * w * w;
    for (int64_t n = 0; n < N; ++n) {
      all += double(n) + 0.5;
      diagonal += (double(n) + 0.5) * (double(n) + 0.5);
    }
    EXPECT_NEAR(squares, all * all - diagonal, 1e-10 * all * all) << N;
  }
}

TEST(DiagonalInit, TheOthersAreTheirFormulas) {
  const std::vector<double> lin = frequencies(DiagonalInit::lin, 6);
  EXPECT_EQ(lin, (std::vector<double>{0, std::numbers::pi, 2 * std::numbers::pi}));
  const std::vector<double> inv = frequencies(DiagonalInit::inv, 4);
  EXPECT_NEAR(inv[0], 4 / std::numbers::pi * 3, 1e-12);
  EXPECT_NEAR(inv[1], 4 / std::numbers::pi * (4.0 / 3 - 1), 1e-12);
  const auto real = diagonal_values(DiagonalInit::real, 3);
  EXPECT_EQ(real, (std::vector<std::complex<double>>{-1, -2, -3}));
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ridge.h"

#include <algorithm>
#include <cmath>

#include "elapse/core/error.h"

namespace elapse {
namespace {

// K = U^T U: on return U is in K's upper triangle. Rows of U are subtracted four at a time, so that
// a row of K passes through the cache a quarter as often.
void factor(std::vector<double>& K, int64_t n) {
  constexpr int64_t kRows = 4;
  double* const k = K.data();
  const auto eliminate = [&](int64_t j) {  // rows before j in its block have been subtracted
    const double pivot = k[j * n + j];
    ELAPSE_CHECK(pivot > 0 && std::isfinite(pivot),
                 "ridge: expected a positive definite matrix, found {} at its pivot {}", pivot, j);
    const double scale = 1 / std::sqrt(pivot);
    for (int64_t c = j; c < n; ++c) k[j * n + c] *= scale;
  };
  for (int64_t begin = 0; begin < n; begin += kRows) {
    const int64_t end = std::min(begin + kRows, n);
    for (int64_t j = begin; j < end; ++j) {
      for (int64_t b = begin; b < j; ++b) {
        const double f = k[b * n + j];
        for (int64_t c = j; c < n; ++c) k[j * n + c] -= f * k[b * n + c];
      }
      eliminate(j);
    }
    if (end - begin < kRows) break;  // the last rows: none below
    const double* const u = k + begin * n;
    for (int64_t r = end; r < n; ++r) {
      double* const row = k + r * n;
      const double f0 = u[r], f1 = u[n + r], f2 = u[2 * n + r], f3 = u[3 * n + r];
      for (int64_t c = r; c < n; ++c) {
        row[c] -= f0 * u[c] + f1 * u[n + c] + f2 * u[2 * n + c] + f3 * u[3 * n + c];
      }
    }
  }
}

}  // namespace

std::vector<double> solve_ridge(std::vector<double> K, const std::vector<double>& ridge,
                                std::vector<double> Y) {
  const int64_t n = std::ssize(ridge), columns = std::ssize(Y) / n;
  double* const k = K.data();
  double* const y = Y.data();
  for (int64_t i = 0; i < n; ++i) k[i * n + i] += ridge[static_cast<size_t>(i)];
  factor(K, n);
  const auto subtract = [&](int64_t from, int64_t to, double f) {
    for (int64_t c = 0; c < columns; ++c) y[to * columns + c] -= f * y[from * columns + c];
  };
  const auto divide = [&](int64_t i) {
    for (int64_t c = 0; c < columns; ++c) y[i * columns + c] /= k[i * n + i];
  };
  for (int64_t i = 0; i < n; ++i) {  // U^T
    divide(i);
    for (int64_t r = i + 1; r < n; ++r) subtract(i, r, k[i * n + r]);
  }
  for (int64_t i = n - 1; i >= 0; --i) {  // U
    for (int64_t r = i + 1; r < n; ++r) subtract(r, i, k[i * n + r]);
    divide(i);
  }
  return Y;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/diagonal_init.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace elapse {
namespace {

using Matrix = std::vector<std::vector<double>>;

constexpr double kRealPart = -0.5;

// Of a symmetric matrix, ascending: Jacobi's rotations, each of which clears one place.
std::vector<double> eigenvalues(Matrix m) {
  const size_t n = m.size();
  const auto rotate = [&](size_t p, size_t q) {
    if (m[p][q] == 0) return;
    const double theta = (m[q][q] - m[p][p]) / (2 * m[p][q]);
    const double t = std::copysign(1 / (std::abs(theta) + std::hypot(theta, 1)), theta);
    const double c = 1 / std::hypot(t, 1), s = t * c;
    for (size_t k = 0; k < n; ++k) {
      const double kp = m[k][p], kq = m[k][q];
      m[k][p] = c * kp - s * kq;
      m[k][q] = s * kp + c * kq;
    }
    for (size_t k = 0; k < n; ++k) {
      const double pk = m[p][k], qk = m[q][k];
      m[p][k] = c * pk - s * qk;
      m[q][k] = s * pk + c * qk;
    }
  };
  constexpr int kSweeps = 16;  // they converge quadratically
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (size_t p = 0; p < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) rotate(p, q);
    }
  }
  std::vector<double> values;
  for (size_t i = 0; i < n; ++i) values.push_back(m[i][i]);
  std::sort(values.begin(), values.end());
  return values;
}

// The normal part of HiPPO-LegS is -1/2 and an antisymmetric S with S[n][k] = -sqrt(n + 1/2)
// sqrt(k + 1/2) below the diagonal: the squares of its frequencies, each twice, are the eigenvalues
// of S^T S. Ascending.
std::vector<double> legs_frequencies(int64_t d_state) {
  const auto N = static_cast<size_t>(d_state);
  const auto S = [](size_t n, size_t k) {
    const double size = std::sqrt((static_cast<double>(n) + 0.5) * (static_cast<double>(k) + 0.5));
    return n == k ? 0 : n > k ? -size : size;
  };
  Matrix square(N, std::vector<double>(N));
  for (size_t i = 0; i < N; ++i) {
    for (size_t j = 0; j < N; ++j) {
      for (size_t k = 0; k < N; ++k) square[i][j] += S(k, i) * S(k, j);
    }
  }
  const std::vector<double> squares = eigenvalues(std::move(square));
  std::vector<double> frequencies;
  for (size_t i = 0; i < N; i += 2) {
    frequencies.push_back(std::sqrt(std::max(0.0, (squares[i] + squares[i + 1]) / 2)));
  }
  return frequencies;
}

}  // namespace

std::vector<std::complex<double>> diagonal_values(DiagonalInit init, int64_t d_state) {
  std::vector<std::complex<double>> values;
  if (init == DiagonalInit::legs) {
    for (const double frequency : legs_frequencies(d_state)) {
      values.emplace_back(kRealPart, frequency);
    }
    return values;
  }
  const int64_t count = is_complex(init) ? d_state / 2 : d_state;
  const auto N = static_cast<double>(d_state);
  for (int64_t i = 0; i < count; ++i) {
    const auto n = static_cast<double>(i);
    if (init == DiagonalInit::lin) {
      values.emplace_back(kRealPart, std::numbers::pi * n);
    } else if (init == DiagonalInit::inv) {
      values.emplace_back(kRealPart, N / std::numbers::pi * (N / (2 * n + 1) - 1));
    } else {
      values.emplace_back(-(n + 1), 0);
    }
  }
  return values;
}

}  // namespace elapse

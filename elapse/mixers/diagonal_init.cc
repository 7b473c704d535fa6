// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/diagonal_init.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace elapse {
namespace {

constexpr double kRealPart = -0.5;

// The normal part of HiPPO-LegS is -1/2 and an antisymmetric S with S[n][k] = -sqrt(n + 1/2)
// sqrt(k + 1/2) below the diagonal. With w_n = sqrt(n + 1/2) v_n, the difference of two
// neighbouring rows of S v = i f v is w_{n+1} (1 + i f / (n + 3/2)) = -w_n (1 - i f / (n + 1/2)),
// factors of which only the angles matter: going around from the last row to the first, which the
// sum of the two allows, the angles must close, and for an even N the frequencies f_j, j from 1 to
// N / 2, are the solutions of
//   sum over n < N of atan(f / (n + 1/2)) = pi (j - 1/2)
// The sum is concave in f: from the solution before, Newton's steps never pass the next one.
std::vector<double> legs_frequencies(int64_t d_state) {
  std::vector<double> frequencies;
  double f = 0;
  for (int64_t j = 1; j <= d_state / 2; ++j) {
    const double wanted = std::numbers::pi * (static_cast<double>(j) - 0.5);
    while (true) {
      double sum = 0, slope = 0;
      for (int64_t n = 0; n < d_state; ++n) {
        const double p = static_cast<double>(n) + 0.5;
        sum += std::atan(f / p);
        slope += p / (p * p + f * f);
      }
      const double next = f + (wanted - sum) / slope;
      if (next <= f) break;  // what is left is rounding
      f = next;
    }
    frequencies.push_back(f);
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

// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/mixing_operations.h"

#include <algorithm>
#include <cmath>

#include "elapse/ops/ssd.h"

namespace elapse {

double convolution_operations(const StepShape& step, int64_t taps) {
  const auto n = static_cast<double>(step.length + taps);
  const double transform = 4.25 * n * std::log2(n), product = 6 * n;
  const auto length = static_cast<double>(step.length);
  const double of_a_pair = 2 * transform + product;
  return (of_a_pair / 2 + transform / static_cast<double>(step.sequences)) / length;
}

double ssd_operations(const StepShape& step, int64_t d_inner, int64_t d_state, int64_t n_groups) {
  const int64_t chunk = std::min(SsdInputs::kChunk, step.length);
  const int64_t states = 2 * d_inner * d_state, products = n_groups * chunk * d_state;
  return 2 * (static_cast<double>(states + products) + static_cast<double>(d_inner * chunk) / 2);
}

}  // namespace elapse

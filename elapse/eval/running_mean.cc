// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/running_mean.h"

#include <cmath>
#include <limits>

namespace elapse {

// Welford (1962): no difference of large sums.
void RunningMean::add(double value) {
  const double distance = value - mean_;
  mean_ += distance / static_cast<double>(++count_);
  squares_ += distance * (value - mean_);
}

double RunningMean::standard_error() const {
  if (count_ < 2) return std::numeric_limits<double>::quiet_NaN();
  const auto count = static_cast<double>(count_);
  return std::sqrt(squares_ / (count - 1) / count);
}

}  // namespace elapse

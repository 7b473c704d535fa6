// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace elapse {

// The mean of values that come one by one, and how far it may be off by chance.
class RunningMean {
 public:
  void add(double value);

  int64_t count() const { return count_; }
  double mean() const { return mean_; }
  double sum() const { return mean_ * static_cast<double>(count_); }
  // Of the mean: the values' sample deviation over the root of their number. NaN for fewer than two
  // values.
  double standard_error() const;

 private:
  int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;  // sum of squared distances from the mean
};

}  // namespace elapse

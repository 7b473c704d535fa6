// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/power_law.h"

#include <cmath>
#include <limits>

namespace elapse {

double PowerLaw::operator()(double x) const { return at_one * std::pow(x, exponent); }

PowerLaw fitted(const std::vector<double>& x, const std::vector<double>& y) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> log_x, log_y;
  double mean_x = 0, mean_y = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(y[i])) continue;
    log_x.push_back(std::log(x[i]));
    log_y.push_back(std::log(y[i]));
    mean_x += log_x.back();
    mean_y += log_y.back();
  }
  if (log_x.size() < 2) return {kNone, kNone};
  mean_x /= static_cast<double>(log_x.size());
  mean_y /= static_cast<double>(log_x.size());
  double xy = 0, xx = 0;
  for (size_t i = 0; i < log_x.size(); ++i) {
    xy += (log_x[i] - mean_x) * (log_y[i] - mean_y);
    xx += (log_x[i] - mean_x) * (log_x[i] - mean_x);
  }
  const double exponent = xy / xx;
  return {std::exp(mean_y - exponent * mean_x), exponent};
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

namespace elapse {

// y = at_one x^exponent.
struct PowerLaw {
  double at_one = 0, exponent = 0;
  double operator()(double x) const;
};
// By least squares of the logarithms of those points whose y is finite; all NaN of fewer than two.
PowerLaw fitted(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

namespace elapse {

// A figure over the seeds of an experiment.
struct Spread {
  double median, least, largest;
};
// Of those that are finite; all NaN where there are none.
Spread spread_of(std::vector<double> values);

// "98.4", or "98.4 [97.0, 99.1]" of several; a dash where there are none.
std::string spread_text(const std::vector<double>& values, int decimals);

}  // namespace elapse

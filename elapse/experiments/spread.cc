// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/spread.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace elapse {

Spread spread_of(std::vector<double> values) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return {kNone, kNone, kNone};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return {(values[(n - 1) / 2] + values[n / 2]) / 2, values.front(), values.back()};
}

std::string spread_text(const std::vector<double>& values, int decimals) {
  const Spread s = spread_of(values);
  if (!std::isfinite(s.median)) return "–";
  if (values.size() == 1) return fmt::format("{:.{}f}", s.median, decimals);
  return fmt::format("{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]", s.median, s.least, s.largest, decimals);
}

}  // namespace elapse

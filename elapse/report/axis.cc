// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace elapse {
namespace {

constexpr double kLargest = 1e300;    // room for differences of two values
constexpr double kSmallest = 1e-290;  // lengths below it have no usable power of ten
constexpr double kRounding = 1e-9;    // of a step: a tick this far outside is inside

double magnitude(Range range) { return std::max(std::abs(range.lo), std::abs(range.hi)); }

// Logarithms that close are values too close to tell apart.
bool has_length(Scale scale, Range range) {
  const double least = scale == Scale::linear ? kSmallest : kRounding;
  return range.hi - range.lo > std::max(kRounding * magnitude(range), least);
}

// How far around a single position to look.
double half_length(Scale scale, double position) {
  if (scale != Scale::linear || std::abs(position) < kSmallest) return 1.0;
  return 0.5 * std::abs(position);
}

Range with_margin(Scale scale, Range data, double margin) {
  if (!has_length(scale, data)) {
    const double half = half_length(scale, data.lo);
    return {data.lo - half, data.hi + half};
  }
  const double extra = margin * (data.hi - data.lo);
  Range range{data.lo - extra, data.hi + extra};
  if (scale == Scale::linear && data.lo >= 0) range.lo = std::max(range.lo, 0.0);
  if (scale == Scale::linear && data.hi <= 0) range.hi = std::min(range.hi, 0.0);
  return range;
}

// The smallest of 1, 2, 5 times a power of ten that is not below `length`.
double round_step(double length) {
  const double power = std::pow(10.0, std::floor(std::log10(length)));
  for (double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= length * (1 - kRounding)) return factor * power;
  }
  return 10.0 * power;
}

std::string with_separators(std::string digits) {
  const size_t begin = digits[0] == '-' ? 1 : 0;
  size_t end = std::min(digits.find('.'), digits.size());
  while (end > begin + 3) digits.insert(end -= 3, 1, ',');
  return digits;
}

std::string with_minus_sign(const std::string& digits) {
  return digits[0] == '-' ? fmt::format("−{}", digits.substr(1)) : digits;
}

std::string tick_label(double value, double step, double largest) {
  if (step < 1e-6 || largest >= 1e7) return with_minus_sign(fmt::format("{:.6g}", value));
  const int decimals = static_cast<int>(std::max(0.0, -std::floor(std::log10(step) + kRounding)));
  return with_minus_sign(with_separators(fmt::format("{:.{}f}", value, decimals)));
}

std::vector<Tick> linear_ticks(Range range, int max_count) {
  const double step = round_step((range.hi - range.lo) / max_count);
  const auto first = static_cast<int64_t>(std::ceil(range.lo / step - kRounding));
  const auto last = static_cast<int64_t>(std::floor(range.hi / step + kRounding));
  std::vector<Tick> out;
  for (int64_t i = first; i <= last; ++i) {
    const double value = static_cast<double>(i) * step;
    out.push_back({value, tick_label(value, step, magnitude(range)), ""});
  }
  return out;
}

int64_t first_integer(Range range) { return static_cast<int64_t>(std::ceil(range.lo - kRounding)); }
int64_t last_integer(Range range) { return static_cast<int64_t>(std::floor(range.hi + kRounding)); }

std::vector<Tick> power_ticks(const std::string& base, Range range, int max_count) {
  const int64_t first = first_integer(range), last = last_integer(range);
  const int64_t step = (last - first) / max_count + 1;
  std::vector<Tick> out;
  for (int64_t e = first; e <= last; e += step) {
    out.push_back({static_cast<double>(e), base, with_minus_sign(fmt::format("{}", e))});
  }
  return out;
}

std::vector<Tick> decimal_ticks(Range range) {
  std::vector<Tick> out;
  for (int64_t e = first_integer(range) - 1; e <= last_integer(range); ++e) {
    for (int factor : {1, 2, 5}) {
      const double position = static_cast<double>(e) + std::log10(factor);
      if (position < range.lo - kRounding || position > range.hi + kRounding) continue;
      out.push_back({position, fmt::format("{:.3g}", value_of(Scale::log10, position)), ""});
    }
  }
  return out;
}

std::vector<Tick> linear_ticks_on(Scale scale, Range range, int max_count) {
  const Range values{value_of(scale, range.lo), value_of(scale, range.hi)};
  std::vector<Tick> out = linear_ticks(values, max_count);
  for (Tick& tick : out) tick.position = position_of(scale, tick.position);
  return out;
}

}  // namespace

bool plottable(Scale scale, double value) {
  if (scale == Scale::linear) return std::abs(value) <= kLargest;
  return value >= 1 / kLargest && value <= kLargest;
}

double position_of(Scale scale, double value) {
  switch (scale) {
    case Scale::linear:
      return value;
    case Scale::log2:
      return std::log2(value);
    case Scale::log10:
      break;
  }
  return std::log10(value);
}

double value_of(Scale scale, double position) {
  switch (scale) {
    case Scale::linear:
      return position;
    case Scale::log2:
      return std::exp2(position);
    case Scale::log10:
      break;
  }
  return std::pow(10.0, position);
}

void Range::include(double position) {
  lo = std::min(lo, position);
  hi = std::max(hi, position);
}

Range visible_range(const Axis& axis, Range data, double margin) {
  if (data.empty()) data = {0.0, 1.0};
  Range range = with_margin(axis.scale, data, margin);
  if (axis.lo) range.lo = position_of(axis.scale, *axis.lo);
  if (axis.hi) range.hi = position_of(axis.scale, *axis.hi);
  if (has_length(axis.scale, range)) return range;
  if (axis.lo) return {range.lo, range.lo + half_length(axis.scale, range.lo)};
  return {range.hi - half_length(axis.scale, range.hi), range.hi};
}

std::vector<Tick> ticks(Scale scale, Range range, int max_count) {
  if (scale == Scale::linear) return linear_ticks(range, max_count);
  if (scale == Scale::log10 && range.hi - range.lo <= max_count / 2) {
    std::vector<Tick> out = decimal_ticks(range);
    if (out.size() >= 2 && out.size() <= static_cast<size_t>(max_count)) return out;
  }
  const int64_t powers = last_integer(range) - first_integer(range) + 1;
  if (powers < 2) return linear_ticks_on(scale, range, max_count);
  return power_ticks(scale == Scale::log2 ? "2" : "10", range, max_count);
}

}  // namespace elapse

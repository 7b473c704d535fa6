// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/quantities.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

namespace elapse {
namespace {

constexpr double kThousand = 1000;

// `count` in the largest of the units that leaves at least one of it; the first unit is 1 itself.
std::string in_units(int64_t count, const std::array<std::string_view, 5>& units) {
  auto value = static_cast<double>(count);
  size_t unit = 0;
  // What rounds to a thousand is one of the next unit.
  for (; value >= kThousand - 0.05 && unit + 1 < units.size(); ++unit) value /= kThousand;
  return unit == 0 ? fmt::format("{}{}", count, units[0])
                   : fmt::format("{:.1f}{}", value, units[unit]);
}

}  // namespace

std::string count_text(int64_t count) { return in_units(count, {"", "K", "M", "B", "T"}); }

std::string bytes_text(int64_t bytes) {
  return in_units(bytes, {" bytes", " kB", " MB", " GB", " TB"});
}

}  // namespace elapse

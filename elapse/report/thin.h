// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cmath>
#include <cstddef>
#include <vector>

namespace elapse {

// A point of the picture, in the units of its viewBox. A point that is not finite is a gap: the
// line breaks there.
struct Point {
  double x = 0, y = 0;
  bool is_gap() const { return !std::isfinite(x) || !std::isfinite(y); }
};

inline constexpr Point kGap{NAN, NAN};

// At most `max_points` (>= 2) points that draw the same picture: the lowest and the highest point
// of each of max_points / 2 equal bins of x (of the index, where x does not ascend), and one gap
// per bin that has any. Up to `max_points` points come back as they are.
std::vector<Point> thin(std::vector<Point> points, size_t max_points);

}  // namespace elapse

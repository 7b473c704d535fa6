// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/thin.h"

#include <algorithm>
#include <cassert>

namespace elapse {
namespace {

// The extremes of one bin, in the order they came.
class Bin {
 public:
  void add(Point point) {
    if (point.is_gap()) {
      has_gap_ = true;
      return;
    }
    ++count_;
    if (count_ == 1 || point.y < lowest_.y) lowest_ = point, lowest_at_ = count_;
    if (count_ == 1 || point.y > highest_.y) highest_ = point, highest_at_ = count_;
  }

  void flush(std::vector<Point>& out) {
    const bool rising = lowest_at_ <= highest_at_;
    if (count_ > 0) out.push_back(rising ? lowest_ : highest_);
    if (lowest_at_ != highest_at_) out.push_back(rising ? highest_ : lowest_);
    if (has_gap_) out.push_back(kGap);
    *this = Bin();
  }

 private:
  Point lowest_, highest_;
  size_t lowest_at_ = 0, highest_at_ = 0, count_ = 0;
  bool has_gap_ = false;
};

// The x of the finite points, from first to last; empty where it does not ascend.
struct Span {
  double first = INFINITY, last = -INFINITY;
  bool ascends = true;

  bool has_length() const { return ascends && last > first; }
};

Span x_span(const std::vector<Point>& points) {
  Span span;
  for (const Point& p : points) {
    if (!std::isfinite(p.x)) continue;
    span.ascends &= p.x >= span.last;
    span.first = std::min(span.first, p.x);
    span.last = p.x;
  }
  return span;
}

}  // namespace

std::vector<Point> thin(std::vector<Point> points, size_t max_points) {
  assert(max_points >= 2);
  if (points.size() <= max_points) return points;
  const size_t bins = max_points / 2;
  const Span span = x_span(points);
  const double bins_per_x = static_cast<double>(bins) / (span.last - span.first);
  std::vector<Point> out;
  Bin bin;
  size_t index = 0;  // of the bin; a gap without an x falls into that of the point before it
  for (size_t i = 0; i < points.size(); ++i) {
    size_t next = index;
    if (!span.has_length()) next = i * bins / points.size();
    else if (std::isfinite(points[i].x)) {
      next = std::min(static_cast<size_t>((points[i].x - span.first) * bins_per_x), bins - 1);
    }
    if (next != index) bin.flush(out);
    bin.add(points[i]);
    index = next;
  }
  bin.flush(out);
  return out;
}

}  // namespace elapse

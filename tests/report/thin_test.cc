// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/thin.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "elapse/core/random.h"

namespace elapse {
namespace {

using Points = std::vector<Point>;

Points noise(size_t count, double gap_probability = 0) {
  Random random(3);
  Points points;
  for (size_t i = 0; i < count; ++i) {
    const bool gap = random.uniform() < gap_probability;
    points.push_back({static_cast<double>(i), gap ? NAN : random.normal()});
  }
  return points;
}

size_t gaps(const Points& points) {
  return static_cast<size_t>(
      std::count_if(points.begin(), points.end(), [](const Point& p) { return p.is_gap(); }));
}

bool holds(const Points& points, Point wanted) {
  return std::any_of(points.begin(), points.end(),
                     [&](const Point& p) { return p.x == wanted.x && p.y == wanted.y; });
}

TEST(Thin, LeavesShortSeriesAlone) {
  for (size_t count : {0u, 1u, 99u, 100u}) EXPECT_EQ(thin(noise(count), 100).size(), count);
  EXPECT_LE(thin(noise(101), 100).size(), 100u);
}

TEST(Thin, KeepsTheExtremesOfEveryBin) {
  Points points = noise(12000);
  points[7777].y = 50;
  points[7778].y = -50;
  const Points out = thin(points, 100);
  EXPECT_LE(out.size(), 100u);
  EXPECT_TRUE(holds(out, points[7777]) && holds(out, points[7778]));
  for (size_t bin = 0; bin < 50; ++bin) {
    const auto begin = points.begin() + static_cast<std::ptrdiff_t>(bin * 240 + 1);
    const auto extremes = std::minmax_element(
        begin, begin + 238, [](const Point& a, const Point& b) { return a.y < b.y; });
    const auto lo = extremes.first, hi = extremes.second;
    const auto covers = [&](const Point& p) {
      return p.x >= begin->x - 1 && p.x <= begin->x + 239;
    };
    const auto lower = [&](const Point& p) { return covers(p) && p.y <= lo->y; };
    const auto higher = [&](const Point& p) { return covers(p) && p.y >= hi->y; };
    EXPECT_TRUE(std::any_of(out.begin(), out.end(), lower)) << bin;
    EXPECT_TRUE(std::any_of(out.begin(), out.end(), higher)) << bin;
  }
}

TEST(Thin, KeepsOrder) {
  const Points out = thin(noise(5000), 64);
  EXPECT_TRUE(std::is_sorted(out.begin(), out.end(),
                             [](const Point& a, const Point& b) { return a.x < b.x; }));
}

TEST(Thin, BinsByPlaceNotByCount) {
  Points points;  // as on a logarithmic axis: nearly all points crowd at the right
  for (int i = 0; i < 10000; ++i) points.push_back({i < 50 ? i : 99 + i * 1e-4, 0.0 + i % 7});
  const Points out = thin(points, 200);
  EXPECT_GE(std::count_if(out.begin(), out.end(), [](const Point& p) { return p.x < 50; }), 50);
}

TEST(Thin, KeepsGapsAndStaysBounded) {
  Points one = noise(10000);
  one[5000].y = INFINITY;
  EXPECT_EQ(gaps(thin(one, 100)), 1u);
  one[5000] = kGap;  // no x either
  EXPECT_EQ(gaps(thin(one, 100)), 1u);
  const Points many = thin(noise(10000, 0.5), 100);
  EXPECT_EQ(gaps(many), 50u);
  EXPECT_LE(many.size(), 150u);
  EXPECT_EQ(gaps(thin(Points(1000, kGap), 100)), thin(Points(1000, kGap), 100).size());
}

TEST(Thin, TakesAnyOrderOfX) {
  Points points = noise(5000);
  std::reverse(points.begin(), points.end());
  points[1234].y = 50;
  EXPECT_LE(thin(points, 100).size(), 100u);
  EXPECT_TRUE(holds(thin(points, 100), points[1234]));
  for (Point& p : points) p.x = 2;
  EXPECT_LE(thin(points, 100).size(), 100u);
  EXPECT_TRUE(holds(thin(points, 100), points[1234]));
}

}  // namespace
}  // namespace elapse

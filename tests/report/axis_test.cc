// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/axis.h"

#include <gtest/gtest.h>

#include <cmath>

namespace elapse {
namespace {

std::vector<std::string> labels(const std::vector<Tick>& ticks) {
  std::vector<std::string> out;
  for (const Tick& t : ticks)
    out.push_back(t.exponent.empty() ? t.label : t.label + "^" + t.exponent);
  return out;
}

using Labels = std::vector<std::string>;

TEST(Ticks, LinearOnesAreRound) {
  EXPECT_EQ(labels(ticks(Scale::linear, {0, 1}, 5)),
            (Labels{"0.0", "0.2", "0.4", "0.6", "0.8", "1.0"}));
  EXPECT_EQ(labels(ticks(Scale::linear, {0, 12000}, 6)),
            (Labels{"0", "2,000", "4,000", "6,000", "8,000", "10,000", "12,000"}));
  EXPECT_EQ(labels(ticks(Scale::linear, {-0.031, 0.012}, 5)),
            (Labels{"−0.03", "−0.02", "−0.01", "0.00", "0.01"}));
  EXPECT_EQ(labels(ticks(Scale::linear, {0, 3e6}, 3)),
            (Labels{"0", "1,000,000", "2,000,000", "3,000,000"}));
  EXPECT_EQ(labels(ticks(Scale::linear, {0, 2e-7}, 2)), (Labels{"0", "1e-07", "2e-07"}));
}

TEST(Ticks, Log2ShowsPowersAndSkipsEvenly) {
  const auto all = labels(ticks(Scale::log2, {6, 20}, 15));
  ASSERT_EQ(all.size(), 15u);
  EXPECT_EQ(all.front(), "2^6");
  EXPECT_EQ(all.back(), "2^20");
  EXPECT_EQ(labels(ticks(Scale::log2, {6, 20}, 8)),
            (Labels{"2^6", "2^8", "2^10", "2^12", "2^14", "2^16", "2^18", "2^20"}));
  EXPECT_EQ(labels(ticks(Scale::log2, {-1.5, 1.5}, 8)), (Labels{"2^−1", "2^0", "2^1"}));
}

TEST(Ticks, Log10FillsShortAxes) {
  EXPECT_EQ(labels(ticks(Scale::log10, {-4, 1}, 6)),
            (Labels{"10^−4", "10^−3", "10^−2", "10^−1", "10^0", "10^1"}));
  EXPECT_EQ(labels(ticks(Scale::log10, {std::log10(0.05), std::log10(4.0)}, 7)),
            (Labels{"0.05", "0.1", "0.2", "0.5", "1", "2"}));
}

TEST(Ticks, LogarithmicAxesBetweenTwoPowersCountLinearly) {
  const auto found = ticks(Scale::log2, {std::log2(5.0), std::log2(7.0)}, 4);
  EXPECT_EQ(labels(found), (Labels{"5.0", "5.5", "6.0", "6.5", "7.0"}));
  EXPECT_DOUBLE_EQ(found[2].position, std::log2(6.0));
}

TEST(Ticks, StayInRangeAndFewForAnyMagnitude) {
  for (Scale scale : {Scale::linear, Scale::log2, Scale::log10}) {
    for (double lo : {-1e300, -7.3, -1e-280, 0.0, 1e-280, 3.7, 1e9, 1e300}) {
      for (double length : {1e-280, 1e-3, 0.9, 77.0, 1e300}) {
        for (int count : {1, 2, 7, 16}) {
          if (scale != Scale::linear && (std::abs(lo) > 900 || length > 100)) continue;
          const Range range = visible_range({"", scale}, {lo, lo + length}, 0.0);
          const auto found = ticks(scale, range, count);
          EXPECT_LE(found.size(), static_cast<size_t>(count) + 1);
          for (const Tick& t : found) {
            EXPECT_TRUE(t.position >= range.lo - 1e-6 * (range.hi - range.lo) &&
                        t.position <= range.hi + 1e-6 * (range.hi - range.lo))
                << t.position << " not in " << range.lo << " .. " << range.hi;
          }
        }
      }
    }
  }
}

TEST(VisibleRange, WidensWhatHasNoLength) {
  const Axis axis;
  for (double v : {0.0, 3.0, -5.0, 1e-300, 1e300}) {
    const Range r = visible_range(axis, {v, v}, 0.05);
    EXPECT_LT(r.lo, r.hi) << v;
    EXPECT_LE(r.lo, v);
    EXPECT_GE(r.hi, v);
  }
  EXPECT_LT(visible_range(axis, {}, 0.05).lo, visible_range(axis, {}, 0.05).hi);
}

TEST(VisibleRange, MarginDoesNotCrossZero) {
  EXPECT_DOUBLE_EQ(visible_range({}, {0.01, 1}, 0.05).lo, 0.0);
  EXPECT_DOUBLE_EQ(visible_range({}, {-1, -0.01}, 0.05).hi, 0.0);
  EXPECT_DOUBLE_EQ(visible_range({}, {-1, 1}, 0.05).lo, -1.1);
}

TEST(VisibleRange, KeepsFixedEnds) {
  const Range both = visible_range({"", Scale::linear, 0.0, 1.0}, {0.3, 0.4}, 0.05);
  EXPECT_DOUBLE_EQ(both.lo, 0.0);
  EXPECT_DOUBLE_EQ(both.hi, 1.0);
  const Range beyond = visible_range({"", Scale::linear, 10.0, {}}, {0.3, 0.4}, 0.05);
  EXPECT_DOUBLE_EQ(beyond.lo, 10.0);
  EXPECT_GT(beyond.hi, 10.0);
  EXPECT_DOUBLE_EQ(visible_range({"", Scale::log2, 64.0, {}}, {7, 9}, 0.0).lo, 6.0);
}

TEST(Plottable, RefusesWhatAnAxisCannotPlace) {
  for (Scale scale : {Scale::linear, Scale::log2, Scale::log10}) {
    for (double v : {double(NAN), double(INFINITY), -double(INFINITY), 1e301}) {
      EXPECT_FALSE(plottable(scale, v)) << v;
    }
    EXPECT_TRUE(plottable(scale, 1.0));
    EXPECT_EQ(plottable(scale, 0.0), scale == Scale::linear);
    EXPECT_EQ(plottable(scale, -1.0), scale == Scale::linear);
  }
}

}  // namespace
}  // namespace elapse

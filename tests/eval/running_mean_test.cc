// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/running_mean.h"

#include <gtest/gtest.h>

#include <cmath>

namespace elapse {
namespace {

TEST(RunningMean, IsThatOfAllValues) {
  RunningMean mean;
  for (double value : {2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0}) mean.add(value);
  EXPECT_EQ(mean.count(), 8);
  EXPECT_DOUBLE_EQ(mean.mean(), 5);
  EXPECT_DOUBLE_EQ(mean.sum(), 40);
  EXPECT_DOUBLE_EQ(mean.standard_error(), std::sqrt(32.0 / 7 / 8));
}

TEST(RunningMean, OfOneValueHasNoKnownError) {
  RunningMean mean;
  EXPECT_TRUE(std::isnan(mean.standard_error()));
  mean.add(3);
  EXPECT_EQ(mean.mean(), 3);
  EXPECT_TRUE(std::isnan(mean.standard_error()));
}

TEST(RunningMean, SmallDeviationsFromALargeMeanAreSeen) {
  RunningMean mean;
  for (double value : {1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16}) mean.add(value);
  EXPECT_DOUBLE_EQ(mean.standard_error(), std::sqrt(30.0 / 4));
}

}  // namespace
}  // namespace elapse

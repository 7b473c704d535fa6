// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/shape.h"

#include <gtest/gtest.h>

namespace elapse {
namespace {

TEST(Shape, NegativeIndicesCountFromTheEnd) {
  const Shape shape{2, 37, 64};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape[0], 2);
  EXPECT_EQ(shape[-1], 64);
  EXPECT_EQ(shape[-3], 2);
}

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape{}.numel(), 1);  // a scalar
  EXPECT_EQ((Shape{3, 0, 5}).numel(), 0);
  EXPECT_EQ((Shape{2, 3, 4, 5, 6}).numel(), 720);
  EXPECT_EQ((Shape{int64_t{1} << 20, int64_t{1} << 20}).numel(), int64_t{1} << 40);
}

TEST(Shape, EqualityIsOfRankAndSizes) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE(Shape{0} == Shape{});  // unused places hold zeros as well
  EXPECT_FALSE((Shape{2, 0}) == Shape{2});
}

TEST(Shape, GrowsAndChangesInPlace) {
  Shape shape;
  for (int64_t d = 1; d <= Shape::kMaxRank; ++d) shape.push_back(d);
  shape.set(-1, 9);
  shape.set(0, 7);
  EXPECT_EQ(shape, (Shape{7, 2, 3, 4, 9}));
}

TEST(Shape, Prints) {
  EXPECT_EQ(Shape{}.str(), "()");
  EXPECT_EQ(Shape{7}.str(), "(7)");
  EXPECT_EQ((Shape{2, 37, 64}).str(), "(2, 37, 64)");
}

}  // namespace
}  // namespace elapse

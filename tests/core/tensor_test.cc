// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "elapse/core/error.h"

namespace elapse {
namespace {

// (rows, columns), its elements 0, 1, 2, ... in memory order.
Tensor iota(Pool& pool, int64_t rows, int64_t columns) {
  const Tensor t = Tensor::empty(pool, DType::f32, {rows, columns});
  std::iota(t.data<float>(), t.data<float>() + t.numel(), 0.0F);
  return t;
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::f32), 4);
  EXPECT_EQ(size_of(DType::f64), 8);
  EXPECT_EQ(size_of(DType::f16), 2);
  EXPECT_EQ(size_of(DType::bf16), 2);
  EXPECT_EQ(size_of(DType::i64), 8);
  EXPECT_EQ(size_of(DType::i32), 4);
  EXPECT_EQ(size_of(DType::u8), 1);
  EXPECT_EQ(name_of(DType::f32), "f32");
  EXPECT_EQ(name_of(DType::bf16), "bf16");
  EXPECT_EQ(name_of(DType::u8), "u8");
}

TEST(Tensor, DefaultIsEmpty) { EXPECT_FALSE(Tensor{}); }

TEST(Tensor, EmptyIsContiguousAndAligned) {
  Pool pool(host_memory());
  const Tensor t = Tensor::empty(pool, DType::f64, {2, 3, 5});
  EXPECT_TRUE(t.is_contiguous());
  EXPECT_EQ(t.stride(0), 15);
  EXPECT_EQ(t.stride(1), 5);
  EXPECT_EQ(t.stride(-1), 1);
  EXPECT_EQ(t.bytes(), 240);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(t.raw()) % 64, 0U);
}

TEST(Tensor, WithoutElementsStillHasMemory) {
  Pool pool(host_memory());
  const Tensor t = Tensor::empty(pool, DType::f32, {0, 7});
  EXPECT_TRUE(t);
  EXPECT_EQ(t.bytes(), 0);
}

TEST(Tensor, RowsAndColumnsAreViews) {
  Pool pool(host_memory());
  const Tensor t = iota(pool, 4, 6);
  for (const Tensor& view : {t.rows(1, 4).columns(2, 5), t.columns(2, 5).rows(1, 4)}) {
    EXPECT_EQ(view.shape(), (Shape{3, 3}));
    EXPECT_EQ(view.stride(0), 6);
    EXPECT_EQ(view.data<float>()[0], 8.0F);
    EXPECT_EQ(view.data<float>()[2 * view.stride(0) + 2], 22.0F);
  }
  t.rows(1, 2).data<float>()[0] = -1.0F;
  EXPECT_EQ(t.data<float>()[6], -1.0F);
}

TEST(Tensor, RowsStayContiguousAndColumnsDoNot) {
  Pool pool(host_memory());
  const Tensor t = iota(pool, 4, 6);
  EXPECT_TRUE(t.rows(1, 3).is_contiguous());
  EXPECT_TRUE(t.columns(0, 6).is_contiguous());
  EXPECT_FALSE(t.columns(0, 5).is_contiguous());
  EXPECT_TRUE(t.rows(2, 3).columns(1, 4).is_contiguous());  // the stride of one row is never taken
}

TEST(Tensor, EmptyRangesAreViewsWithoutElements) {
  Pool pool(host_memory());
  const Tensor t = iota(pool, 4, 6);
  EXPECT_EQ(t.rows(4, 4).numel(), 0);
  EXPECT_EQ(t.columns(6, 6).shape(), (Shape{4, 0}));
}

TEST(Tensor, ReshapeKeepsElementsAndMemory) {
  Pool pool(host_memory());
  const Tensor t = iota(pool, 4, 6).reshape({2, 3, 4});
  EXPECT_EQ(t.stride(0), 12);
  EXPECT_EQ(t.data<float>()[23], 23.0F);
}

TEST(Tensor, ReshapeRefusesOtherCountsAndStridedViews) {
  Pool pool(host_memory());
  const Tensor t = iota(pool, 4, 6);
  EXPECT_THROW(t.reshape({5, 5}), Error);
  EXPECT_THROW(t.columns(0, 3).reshape({12}), Error);
}

TEST(Tensor, ViewsKeepTheMemoryAlive) {
  Pool pool(host_memory());
  Tensor view;
  {
    const Tensor t = iota(pool, 4, 6);
    view = t.rows(3, 4);
  }
  EXPECT_GT(pool.bytes_in_use(), 0);
  EXPECT_EQ(view.data<float>()[5], 23.0F);
  view = {};
  EXPECT_EQ(pool.bytes_in_use(), 0);
}

TEST(Tensor, WrapsForeignMemoryThroughItsOwner) {
  auto owner = std::make_shared<std::vector<int32_t>>(6, 3);
  const std::weak_ptr<std::vector<int32_t>> watch = owner;
  Tensor t = Tensor::wrap(owner->data(), DType::i32, {2, 3}, owner);
  owner.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(t.data<int32_t>()[5], 3);
  t = {};
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace elapse

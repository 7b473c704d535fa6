// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/token_memory.h"

#include <gtest/gtest.h>

#include "elapse/core/error.h"
#include "elapse/core/random.h"

namespace elapse {
namespace {

constexpr int64_t kPage = TokenMemory::kPageTokens, kWidth = 3;

class TokenMemoryTest : public testing::Test {
 protected:
  TokenMemory make(int64_t slots, int64_t window = 0) const {
    return TokenMemory(DType::f32, kWidth, window, slots, false);
  }

  // `count` tokens whose keys are numbers that no other tokens have, and whose values are these
  // negated.
  void append(TokenMemory& memory, int64_t from, int64_t to, int64_t count) {
    std::vector<float> keys(static_cast<size_t>(count * kWidth)), values(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) values[i] = -(keys[i] = next_++);
    Tape tape(device_, false);
    const Var k(device_.upload(keys, {count, kWidth})), v(device_.upload(values, {count, kWidth}));
    memory.append(tape, from, to, k, v, 0, count);
  }

  // The keys that a slot remembers.
  std::vector<float> keys(const TokenMemory& memory, int64_t slot) const {
    std::vector<float> list;
    for (const PastPage& page : memory.past(slot)) {
      const KeyValueRows rows = rows_of_page(page.rows.value(), page.begin, page.end);
      const float *k = rows.k.data<float>(), *v = rows.v.data<float>();
      for (int64_t i = 0; i < rows.k.numel(); ++i) {
        EXPECT_EQ(v[i], -k[i]);
        list.push_back(k[i]);
      }
    }
    return list;
  }

  // The last `count` tokens' keys, of `total` that were numbered from 1.
  static std::vector<float> numbered(int64_t total, int64_t count) {
    std::vector<float> list;
    for (int64_t i = (total - count) * kWidth; i < total * kWidth; ++i) {
      list.push_back(static_cast<float>(i + 1));
    }
    return list;
  }

  Device device_{"cpu", 1};
  float next_ = 1;
};

TEST_F(TokenMemoryTest, RemembersEveryTokenInPages) {
  TokenMemory memory = make(1);
  int64_t total = 0;
  for (const int64_t count : {1, 5, 58, 64, 1, 200, 0}) {
    append(memory, 0, 0, count);
    total += count;
    EXPECT_EQ(memory.length(0), total);
    EXPECT_EQ(keys(memory, 0), numbered(total, total));
    EXPECT_EQ(memory.pages(0), (total + kPage - 1) / kPage);
  }
  EXPECT_TRUE(memory.grows());
  EXPECT_EQ(memory.bytes_per_page(), 2 * kPage * kWidth * 4);
}

TEST_F(TokenMemoryTest, AWindowBoundsIt) {
  for (const int64_t window : {1, 2, 64, 65, 66, 100}) {
    next_ = 1;
    TokenMemory memory = make(1, window);
    EXPECT_FALSE(memory.grows());
    int64_t total = 0;
    for (const int64_t count : {1, 63, 1, 30, 64, 300, 1, 1}) {
      append(memory, 0, 0, count);
      total += count;
      EXPECT_EQ(memory.length(0), total);
      EXPECT_EQ(keys(memory, 0), numbered(total, std::min(total, window - 1))) << window;
      EXPECT_LE(memory.pages(0), (window - 1 + kPage - 1) / kPage + 1);
    }
  }
}

TEST_F(TokenMemoryTest, ForksShareTheirPagesUntilOneWrites) {
  TokenMemory memory = make(1);
  append(memory, 0, 0, 3 * kPage + 10);
  TokenMemory fork = memory.fork(device_, {0, 0, 0});
  const auto shared = [&](int64_t slot) {
    int64_t count = 0;
    const auto mine = memory.past(0), theirs = fork.past(slot);
    for (size_t i = 0; i < mine.size(); ++i) {
      count += mine[i].rows.value().raw() == theirs[i].rows.value().raw();
    }
    return count;
  };
  EXPECT_EQ(fork.pages(), 4);
  EXPECT_EQ(shared(0), 4);
  const auto before = keys(memory, 0);
  append(fork, 1, 1, 1);  // the last page becomes its own
  EXPECT_EQ(fork.pages(), 5);
  EXPECT_EQ(shared(0), 4);
  EXPECT_EQ(shared(1), 3);
  append(fork, 1, 1, kPage);  // one more
  EXPECT_EQ(fork.pages(), 6);
  append(memory, 0, 0, 1);  // shared with two slots yet
  EXPECT_EQ(shared(0), 3);
  EXPECT_EQ(keys(fork, 0), before);
  EXPECT_EQ(keys(fork, 2), before);
  EXPECT_NE(keys(memory, 0), keys(fork, 1));
  EXPECT_EQ(fork.length(1), 4 * kPage + 11);
}

TEST_F(TokenMemoryTest, AFullPageIsNeverCopied) {
  TokenMemory memory = make(2);
  append(memory, 0, 0, kPage);
  append(memory, 0, 1, 5);
  EXPECT_EQ(memory.pages(), 2);
  EXPECT_EQ(memory.length(0), kPage);
  EXPECT_EQ(memory.length(1), kPage + 5);
}

TEST_F(TokenMemoryTest, SlotsGoFromOneToAnother) {
  TokenMemory memory = make(3);
  append(memory, 0, 0, 7);
  append(memory, 0, 1, 2);
  append(memory, Sequences::kNoSlot, 2, 1);
  EXPECT_EQ(memory.length(0), 7);
  EXPECT_EQ(memory.length(1), 9);
  EXPECT_EQ(keys(memory, 1), numbered(9, 9));
  EXPECT_EQ(memory.length(2), 1);
  memory.adopt(device_, 0, memory, 2);
  EXPECT_EQ(keys(memory, 0), keys(memory, 2));
  memory.adopt(device_, 1, memory, Sequences::kNoSlot);
  EXPECT_EQ(memory.length(1), 0);
  memory.reset();
  EXPECT_EQ(memory.pages(), 0);
  EXPECT_EQ(memory.length(2), 0);
}

// What has gradients and what has none go on apart from each other.
TEST_F(TokenMemoryTest, AMemoryWithoutGradientsHasItsOwnLastPage) {
  TokenMemory with_gradients(DType::f32, kWidth, 0, 1, true), without = make(1);
  append(with_gradients, 0, 0, kPage + 10);
  without.adopt(device_, 0, with_gradients, 0);
  append(with_gradients, 0, 0, 2);
  const auto before = keys(with_gradients, 0);
  append(without, 0, 0, 3);
  EXPECT_EQ(keys(with_gradients, 0), before);
  EXPECT_EQ(without.length(0), kPage + 13);
  EXPECT_EQ(with_gradients.past(0)[0].rows.value().raw(), without.past(0)[0].rows.value().raw());
}

TEST_F(TokenMemoryTest, WhatCannotBeAppendedLeavesWhatWasThere) {
  for (const int64_t count : {int64_t{10}, kPage}) {
    next_ = 1;
    TokenMemory memory = make(1);
    append(memory, 0, 0, count);
    Tape tape(device_, false);
    const Var wide(device_.zeros(DType::f32, {1, kWidth + 1}));
    EXPECT_THROW(memory.append(tape, 0, 0, wide, wide, 0, 1), Error);
    EXPECT_EQ(keys(memory, 0), numbered(count, count));
    append(memory, 0, 0, 2);
    EXPECT_EQ(keys(memory, 0), numbered(count + 2, count + 2));
  }
}

TEST_F(TokenMemoryTest, RowsRestoreIt) {
  for (const int64_t window : {0, 1, 40, 64, 65}) {
    TokenMemory memory = make(3, window);
    append(memory, 0, 0, 130);
    append(memory, 2, 2, 64);
    TokenMemory other = make(3, window);
    EXPECT_FALSE(memory.same_bits(other));
    other.restore(device_, {130, 0, 64}, memory.rows(device_));
    EXPECT_TRUE(memory.same_bits(other));
    EXPECT_EQ(other.pages(), memory.pages());
    const float kept = next_;
    append(memory, 0, 0, 70);
    EXPECT_FALSE(memory.same_bits(other));
    next_ = kept;
    append(other, 0, 0, 70);
    EXPECT_TRUE(memory.same_bits(other));
  }
}

}  // namespace
}  // namespace elapse

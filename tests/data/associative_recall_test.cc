// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/associative_recall.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

using Tokens = std::vector<int64_t>;

TEST(AssociativeRecallTask, asks_for_the_value_that_a_key_has_throughout) {
  for (const auto& [length, keys] : {std::pair(4, 1), {6, 3}, {20, 10}, {64, 10}, {128, 200}}) {
    const AssociativeRecallTask task(5, keys);
    const TokenBatch batch = task.training_batch(7, 0, 100, length);
    ASSERT_EQ(batch.lengths, Tokens(100, length));
    for (int64_t s = 0; s < 100; ++s) {
      const auto begin = batch.tokens.begin() + s * length;
      const Tokens tokens(begin, begin + length);
      std::map<int64_t, int64_t> value_of;
      for (size_t i = 0; i + 2 < tokens.size(); i += 2) {
        EXPECT_LT(tokens[i], keys);
        EXPECT_GE(tokens[i + 1], keys);
        EXPECT_LT(tokens[i + 1], 2 * keys);
        EXPECT_EQ(value_of.emplace(tokens[i], tokens[i + 1]).first->second, tokens[i + 1]);
      }
      EXPECT_EQ(tokens[tokens.size() - 2], task.prefix());
      ASSERT_TRUE(value_of.contains(tokens.back()));
      EXPECT_EQ(batch.targets[static_cast<size_t>(s)], value_of[tokens.back()]);
      EXPECT_EQ(batch.logit_rows[static_cast<size_t>(s)], (s + 1) * length - 1);
    }
  }
}

TEST(AssociativeRecallTask, draws_every_token_and_asks_for_every_pair) {
  constexpr int64_t kLength = 10;
  const AssociativeRecallTask task(1, 50);
  const TokenBatch batch = task.training_batch(0, 0, 2000, kLength);
  EXPECT_EQ(std::set<int64_t>(batch.tokens.begin(), batch.tokens.end()).size(), 101U);
  std::vector<int> asked(4);
  for (int64_t s = 0; s < 2000; ++s) {
    const auto tokens = batch.tokens.begin() + s * kLength;
    for (int i = 0; i < 4; ++i) {
      if (tokens[2 * i] != tokens[kLength - 1]) continue;
      ++asked[static_cast<size_t>(i)];
      break;  // few sequences have a key twice
    }
  }
  // 500 expected, fewer where the same key came before; six standard deviations.
  for (const int count : asked) EXPECT_NEAR(count, 495, 130);
}

TEST(AssociativeRecallTask, SaysWhatItCannotDraw) {
  expect_error([] { AssociativeRecallTask(1, 0); }, "at least 1 key, found 0");
  AssociativeRecallTask(1).check_length(4);
  expect_error([] { AssociativeRecallTask(1).check_length(2); }, "an even length of at least 4");
  expect_error([] { AssociativeRecallTask(1).check_length(7); }, "an even length of at least 4");
}

}  // namespace
}  // namespace elapse

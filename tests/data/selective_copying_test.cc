// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/selective_copying.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

using Tokens = std::vector<int64_t>;

// Plays the task by its rules: what is neither noise nor marker, in order.
Tokens played(const Tokens& tokens, int64_t marker) {
  Tokens data;
  for (const int64_t token : tokens) {
    if (token != SelectiveCopyingTask::kNoise && token != marker) data.push_back(token);
  }
  return data;
}

TEST(SelectiveCopyingTask, asks_for_the_data_tokens_in_their_order) {
  for (const auto& [length, data, vocab] :
       {std::tuple(2, 1, 3), {11, 5, 4}, {32, 16, 16}, {33, 16, 16}, {257, 16, 16}}) {
    const SelectiveCopyingTask task(5, data, vocab);
    const TokenBatch batch = task.training_batch(7, 0, 50, length);
    ASSERT_EQ(batch.lengths, Tokens(50, length));
    for (int64_t s = 0; s < 50; ++s) {
      const auto begin = batch.tokens.begin() + s * length;
      const Tokens tokens(begin, begin + length);
      const Tokens answers(batch.targets.begin() + s * data,
                           batch.targets.begin() + (s + 1) * data);
      EXPECT_EQ(played(tokens, task.marker()), answers);
      EXPECT_EQ(Tokens(tokens.end() - data, tokens.end()), Tokens(data, task.marker()));
      EXPECT_EQ(std::count(tokens.begin(), tokens.end(), task.marker()), data);
      for (int64_t i = 0; i < data; ++i) {
        EXPECT_EQ(batch.logit_rows[static_cast<size_t>(s * data + i)], (s + 1) * length - data + i);
      }
    }
  }
}

TEST(SelectiveCopyingTask, every_place_and_every_token_is_as_likely_as_another) {
  constexpr int64_t kLength = 14, kData = 4, kSequences = 1000;
  const SelectiveCopyingTask task(1, kData, 7);
  const TokenBatch batch = task.training_batch(0, 0, kSequences, kLength);
  std::vector<int> at(kLength), of(7);
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    if (batch.tokens[i] == SelectiveCopyingTask::kNoise) continue;
    ++at[i % kLength];
    ++of[static_cast<size_t>(batch.tokens[i])];
  }
  // 400 expected in each of ten places, 800 of each of five tokens; six standard deviations.
  for (int i = 0; i < 10; ++i) EXPECT_NEAR(at[static_cast<size_t>(i)], 400, 93) << i;
  for (int i = 1; i < 6; ++i) EXPECT_NEAR(of[static_cast<size_t>(i)], 800, 152) << i;
}

TEST(SelectiveCopyingTask, SaysWhatItCannotDraw) {
  expect_error([] { SelectiveCopyingTask(1, 0); }, "at least 1 data token, found 0");
  expect_error([] { SelectiveCopyingTask(1, 1, 2); }, "vocabulary of at least 3");
  SelectiveCopyingTask(1).check_length(32);
  expect_error([] { SelectiveCopyingTask(1).check_length(31); }, "a length of at least 32");
}

}  // namespace
}  // namespace elapse

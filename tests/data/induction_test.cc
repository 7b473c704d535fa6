// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/induction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

using Loss = InductionTask::Loss;
using Tokens = std::vector<int64_t>;

// Sequence s of a batch of sequences of one length.
Tokens sequence(const TokenBatch& batch, int64_t s) {
  const int64_t length = batch.lengths.front();
  const auto begin = batch.tokens.begin() + s * length;
  return {begin, begin + length};
}

TEST(InductionTask, each_sequence_asks_for_what_followed_its_prefix) {
  for (const int64_t length : {3, 4, 5, 31, 256}) {
    const TokenBatch batch = InductionTask(5, Loss::last_token).training_batch(7, 0, 200, length);
    ASSERT_EQ(batch.lengths, Tokens(200, length));
    ASSERT_EQ(batch.tokens.size(), static_cast<size_t>(200 * length));
    for (int64_t s = 0; s < 200; ++s) {
      const Tokens tokens = sequence(batch, s);
      EXPECT_EQ(std::count(tokens.begin(), tokens.end(), InductionTask::kPrefix), 2);
      EXPECT_EQ(tokens.back(), InductionTask::kPrefix);
      const auto prefix = std::find(tokens.begin(), tokens.end(), InductionTask::kPrefix);
      EXPECT_EQ(batch.targets[static_cast<size_t>(s)], prefix[1]);
      EXPECT_EQ(batch.logit_rows[static_cast<size_t>(s)], (s + 1) * length - 1);
    }
  }
}

TEST(InductionTask, the_prefix_stands_in_every_place_it_may) {
  constexpr int64_t kLength = 7;
  const TokenBatch batch = InductionTask(1, Loss::last_token).training_batch(0, 0, 500, kLength);
  std::vector<int> count(kLength);
  for (int64_t s = 0; s < 500; ++s) {
    const Tokens tokens = sequence(batch, s);
    ++count[std::find(tokens.begin(), tokens.end(), InductionTask::kPrefix) - tokens.begin()];
  }
  // 100 expected in each of five places; six standard deviations either way.
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(count[i], 100, 54) << i;
  EXPECT_EQ(count[5] + count[6], 0);
}

TEST(InductionTask, draws_the_ordinary_tokens_asked_for) {
  for (const int64_t n_ordinary : {14, 15}) {
    const TokenBatch batch =
        InductionTask(1, Loss::last_token, n_ordinary).training_batch(0, 0, 40, 64);
    const std::set<int64_t> seen(batch.tokens.begin(), batch.tokens.end());
    EXPECT_EQ(static_cast<int64_t>(seen.size()), n_ordinary + 1);
    EXPECT_EQ(*std::prev(seen.end(), 2), n_ordinary - 1);
  }
  expect_error([] { InductionTask(1, Loss::last_token, 13); }, "expected 14 or 15");
}

TEST(InductionTask, on_all_tokens_every_token_predicts_the_next) {
  const TokenBatch last = InductionTask(3, Loss::last_token).training_batch(2, 0, 5, 9);
  const TokenBatch all = InductionTask(3, Loss::all_tokens).training_batch(2, 0, 5, 9);
  EXPECT_EQ(all.tokens, last.tokens);
  EXPECT_TRUE(all.logit_rows.empty());
  ASSERT_EQ(all.targets.size(), all.tokens.size());
  for (size_t i = 0; i < all.tokens.size(); ++i) {
    EXPECT_EQ(all.targets[i], i % 9 == 8 ? last.targets[i / 9] : all.tokens[i + 1]);
  }
  EXPECT_EQ(all.counted_targets(), 45);
}

TEST(InductionTask, holds_out_the_same_number_of_sequences_at_every_length) {
  const InductionTask task(4, Loss::all_tokens);
  for (const int64_t length : {3, 100, 256, 10000}) {
    int64_t sequences = 0, targets = 0;
    for (int64_t i = 0; i < task.held_out_batches(length); ++i) {
      const TokenBatch batch = task.held_out_batch(i, length);
      sequences += static_cast<int64_t>(batch.lengths.size());
      targets += batch.counted_targets();
    }
    EXPECT_EQ(sequences, InductionTask::kHeldOutSequences);
    EXPECT_EQ(targets, InductionTask::kHeldOutSequences);
  }
}

TEST(InductionTask, needs_room_for_prefix_answer_and_prefix) {
  const InductionTask task(4, Loss::last_token);
  task.check_length(3);
  expect_error([&] { task.check_length(2); }, "expected a length of at least 3");
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// What every task has in common whose sequences are drawn.
#include "elapse/data/drawn_task.h"

#include <gtest/gtest.h>

#include <set>

#include "elapse/data/associative_recall.h"
#include "elapse/data/induction.h"
#include "elapse/data/mqar.h"
#include "elapse/data/selective_copying.h"

namespace elapse {
namespace {

using Tokens = std::vector<int64_t>;

std::vector<std::unique_ptr<DrawnTask>> tasks(uint64_t seed) {
  std::vector<std::unique_ptr<DrawnTask>> list;
  list.push_back(std::make_unique<InductionTask>(seed, InductionTask::Loss::last_token));
  list.push_back(std::make_unique<SelectiveCopyingTask>(seed, 5, 9));
  list.push_back(std::make_unique<AssociativeRecallTask>(seed, 7));
  list.push_back(std::make_unique<MqarTask>(seed, 3, 64));
  return list;
}

Tokens sequence(const TokenBatch& batch, int64_t s) {
  const int64_t length = batch.lengths.front();
  const auto begin = batch.tokens.begin() + s * length;
  return {begin, begin + length};
}

void append(TokenBatch& whole, const TokenBatch& part) {
  const auto rows_before = static_cast<int64_t>(whole.tokens.size());
  const auto add = [](Tokens& to, const Tokens& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  add(whole.tokens, part.tokens);
  add(whole.lengths, part.lengths);
  add(whole.targets, part.targets);
  for (const int64_t row : part.logit_rows) whole.logit_rows.push_back(rows_before + row);
}

TEST(DrawnTask, a_step_cut_into_passes_has_the_same_sequences) {
  for (const auto& task : tasks(4)) {
    const TokenBatch whole = task->training_batch(9, 0, 6, 40);
    TokenBatch parts;
    for (const auto& [first, count] : {std::pair(0, 1), {1, 3}, {4, 2}}) {
      append(parts, task->training_batch(9, first, count, 40));
    }
    EXPECT_EQ(parts.tokens, whole.tokens) << task->description();
    EXPECT_EQ(parts.lengths, Tokens(6, 40)) << task->description();
    EXPECT_EQ(parts.logit_rows, whole.logit_rows) << task->description();
    EXPECT_EQ(parts.targets, whole.targets) << task->description();
  }
}

TEST(DrawnTask, sequences_differ_by_step_place_seed_and_purpose) {
  const auto others = tasks(5);
  for (size_t t = 0; const auto& task : tasks(4)) {
    std::set<Tokens> seen;
    for (int64_t step = 0; step < 20; ++step) {
      const TokenBatch batch = task->training_batch(step, 0, 5, 40);
      for (int64_t s = 0; s < 5; ++s) seen.insert(sequence(batch, s));
    }
    seen.insert(sequence(others[t++]->training_batch(0, 0, 1, 40), 0));
    seen.insert(sequence(task->held_out_batch(0, 40), 0));
    EXPECT_EQ(seen.size(), 102U) << task->description();
  }
}

TEST(DrawnTask, holds_out_the_same_number_of_sequences_at_every_length) {
  for (const auto& task : tasks(4)) {
    for (const int64_t length : {12, 100, 10000}) {
      int64_t sequences = 0;
      for (int64_t i = 0; i < task->held_out_batches(length); ++i) {
        const TokenBatch batch = task->held_out_batch(i, length);
        EXPECT_EQ(batch.counted_targets(), std::ssize(batch.logit_rows));
        EXPECT_EQ(std::ssize(batch.tokens), std::ssize(batch.lengths) * length);
        sequences += std::ssize(batch.lengths);
      }
      EXPECT_EQ(sequences, DrawnTask::kHeldOutSequences) << task->description();
    }
  }
}

TEST(DrawnTask, tells_its_seed_and_sizes_apart) {
  std::set<std::string> descriptions;
  for (const uint64_t seed : {4, 5}) {
    for (const auto& task : tasks(seed)) descriptions.insert(task->description());
  }
  descriptions.insert(SelectiveCopyingTask(4, 6, 9).description());
  descriptions.insert(SelectiveCopyingTask(4, 5, 8).description());
  descriptions.insert(AssociativeRecallTask(4, 8).description());
  descriptions.insert(MqarTask(4, 4, 64).description());
  descriptions.insert(MqarTask(4, 3, 65).description());
  EXPECT_EQ(descriptions.size(), 13U);
}

}  // namespace
}  // namespace elapse

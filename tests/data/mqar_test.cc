// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/mqar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

using Tokens = std::vector<int64_t>;

// Plays the task by its rules: the keys that come again, and their values.
void play(const Tokens& tokens, int64_t pairs, Tokens& rows, Tokens& values) {
  std::map<int64_t, int64_t> value_of;
  for (size_t i = 0; i < static_cast<size_t>(2 * pairs); i += 2) {
    value_of.emplace(tokens[i], tokens[i + 1]);
  }
  for (size_t i = static_cast<size_t>(2 * pairs); i < tokens.size(); ++i) {
    if (tokens[i] == 0) continue;
    rows.push_back(static_cast<int64_t>(i));
    values.push_back(value_of.at(tokens[i]));
  }
}

TEST(MqarTask, asks_for_every_key_once_and_for_nothing_else) {
  for (const auto& [length, pairs, vocab] :
       {std::tuple(4, 1, 4), {8, 2, 6}, {14, 3, 9}, {64, 4, 8192}, {256, 64, 8192}}) {
    const MqarTask task(5, pairs, vocab);
    const TokenBatch batch = task.training_batch(7, 0, 20, length);
    ASSERT_EQ(batch.lengths, Tokens(20, length));
    Tokens rows, values;
    for (int64_t s = 0; s < 20; ++s) {
      const auto begin = batch.tokens.begin() + s * length;
      Tokens own_rows;
      play({begin, begin + length}, pairs, own_rows, values);
      EXPECT_EQ(std::ssize(own_rows), pairs);
      for (const int64_t row : own_rows) {
        EXPECT_EQ((row - 2 * pairs) % 2, 0);
        rows.push_back(s * length + row);
      }
    }
    EXPECT_EQ(batch.logit_rows, rows);
    EXPECT_EQ(batch.targets, values);
  }
}

TEST(MqarTask, keys_and_values_are_different_and_each_from_its_half) {
  const TokenBatch batch = MqarTask(1, 6, 20).training_batch(0, 0, 200, 24);
  std::set<int64_t> keys, values;
  for (int64_t s = 0; s < 200; ++s) {
    std::set<int64_t> own_keys, own_values;
    for (int64_t i = 0; i < 12; i += 2) {
      own_keys.insert(batch.tokens[static_cast<size_t>(s * 24 + i)]);
      own_values.insert(batch.tokens[static_cast<size_t>(s * 24 + i + 1)]);
    }
    EXPECT_EQ(own_keys.size(), 6U);
    EXPECT_EQ(own_values.size(), 6U);
    keys.merge(own_keys);
    values.merge(own_values);
  }
  EXPECT_EQ(keys, (std::set<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(values, (std::set<int64_t>{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}));
}

TEST(MqarTask, queries_come_at_distances_by_the_power_law) {
  constexpr int64_t kPlaces = 12, kLength = 2 + 2 * kPlaces, kSequences = 4000;
  const TokenBatch batch = MqarTask(3, 1, 64).training_batch(0, 0, kSequences, kLength);
  std::vector<double> count(kPlaces);
  for (const int64_t row : batch.logit_rows) ++count[static_cast<size_t>(row % kLength / 2 - 1)];
  double total = 0;
  for (int64_t g = 0; g < kPlaces; ++g) total += std::pow(g + 1.0, MqarTask::kPower - 1);
  for (int64_t g = 0; g < kPlaces; ++g) {
    const double p = std::pow(g + 1.0, MqarTask::kPower - 1) / total;
    EXPECT_NEAR(count[static_cast<size_t>(g)], kSequences * p,
                6 * std::sqrt(kSequences * p * (1 - p)))
        << g;
  }
}

TEST(MqarTask, SaysWhatItCannotDraw) {
  expect_error([] { MqarTask(1, 0); }, "at least 1 pair, found 0");
  expect_error([] { MqarTask(1, 8, 17); }, "a vocabulary of at least 18");
  MqarTask(1, 8, 18).check_length(32);
  expect_error([] { MqarTask(1, 8).check_length(30); }, "an even length of at least 32");
  expect_error([] { MqarTask(1, 8).check_length(33); }, "an even length of at least 32");
}

}  // namespace
}  // namespace elapse

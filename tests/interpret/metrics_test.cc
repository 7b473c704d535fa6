// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/core/random.h"

namespace elapse {
namespace {

LastLogits random_logits(uint64_t seed, int64_t sequences = 50, int64_t classes = 7) {
  Random random(seed);
  LastLogits logits = {sequences, classes, {}};
  for (int64_t i = 0; i < sequences * classes; ++i) logits.values.push_back(2 * random.normal());
  return logits;
}

std::vector<Answer> some_answers(int64_t sequences = 50) {
  std::vector<Answer> answers;
  for (int64_t s = 0; s < sequences; ++s) answers.push_back({s % 7, (s + 3) % 7});
  return answers;
}

TEST(Metrics, OfOneSequenceAreThoseByHand) {
  const LastLogits logits = {1, 3, {std::log(1.0), std::log(2.0), std::log(5.0)}};
  const std::vector<Answer> answers = {{1, 2}};
  const TaskScore score = task_score(logits, answers);
  EXPECT_NEAR(score.logit_difference, std::log(0.4), 1e-15);
  EXPECT_NEAR(score.absolute_logit_difference, -std::log(0.4), 1e-15);
  EXPECT_EQ(score.accuracy, 0);
  EXPECT_NEAR(score.probability, 0.25, 1e-15);
  EXPECT_EQ(score.mean_rank, 1);
  const LastLogits q = {1, 3, {7, 7, 7}};
  const double expected = 0.125 * std::log(0.375) + 0.25 * std::log(0.75) + 0.625 * std::log(1.875);
  EXPECT_NEAR(kl_divergences(logits, q).front(), expected, 1e-15);
  EXPECT_NEAR(kl_divergences(logits, logits).front(), 0, 1e-15);
}

TEST(Metrics, TheMeanNeverExceedsTheMeanAbsolute) {
  for (const uint64_t seed : {1, 2, 3}) {
    const TaskScore score = task_score(random_logits(seed), some_answers());
    EXPECT_LT(std::abs(score.logit_difference), score.absolute_logit_difference);
    const Faithfulness f =
        faithfulness(random_logits(seed), random_logits(seed + 9), some_answers());
    EXPECT_LT(f.gap_of_means, f.mean_gap);
    EXPECT_LE(f.median_gap, f.gap_90);
    EXPECT_LE(f.gap_90, f.largest_gap);
    EXPECT_GT(f.kl, 0);
  }
}

TEST(Metrics, AModelIsFaithfulToItself) {
  const LastLogits logits = random_logits(4);
  const Faithfulness f = faithfulness(logits, logits, some_answers());
  EXPECT_EQ(f.gap_of_means, 0);
  EXPECT_EQ(f.largest_gap, 0);
  EXPECT_NEAR(f.kl, 0, 1e-15);
}

TEST(Metrics, QuantilesLieBetweenNeighbours) {
  EXPECT_EQ(quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(quantile({0, 10}, 0.25), 2.5);
  EXPECT_EQ(quantile({4}, 0.9), 4);
  EXPECT_TRUE(std::isnan(quantile({}, 0.5)));
}

TEST(Metrics, NormalisedIsZeroCorruptedAndOneClean) {
  EXPECT_EQ(normalised(3, 3, -1), 1);
  EXPECT_EQ(normalised(-1, 3, -1), 0);
  EXPECT_EQ(normalised(-2, -2, 2), 1);
  EXPECT_TRUE(std::isnan(normalised(1, 2, 2)));
}

TEST(Metrics, RefusesAnswersThatDoNotFit) {
  EXPECT_THROW(logit_differences(random_logits(1), some_answers(3)), Error);
  EXPECT_THROW(logit_differences(random_logits(1, 1), {{0, 7}}), Error);
}

}  // namespace
}  // namespace elapse

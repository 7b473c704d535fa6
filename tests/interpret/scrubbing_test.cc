// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/scrubbing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/interpret/planted.h"

namespace elapse {
namespace {

constexpr int64_t kUnembed = planted::kUnembed;

int64_t identity(size_t example) { return static_cast<int64_t>(example); }
int64_t nothing(size_t) { return 0; }

class Scrubbing : public testing::Test {
 protected:
  Scrubbing() : device_("ref"), model_(planted::model(device_)) {
    data_.sequences = planted::sequences(1, 40);
    // The label is what the model says, so that there is something to lose.
    const LastLogits logits = last_logits(model_, pack(model_, data_.sequences));
    for (int64_t s = 0; s < logits.sequences; ++s) {
      const double* row = logits.values.data() + s * logits.classes;
      data_.labels.push_back(std::max_element(row, row + logits.classes) - row);
    }
  }

  ScrubResult run(const Hypothesis& hypothesis, int64_t rounds = 20) const {
    return scrub(model_, data_, hypothesis, rounds, 7);
  }

  Device device_;
  LanguageModel model_;
  ScrubDataset data_;
};

// Every node matters to every later one, and computes the whole of its input.
Hypothesis everything() {
  Hypothesis all(6);
  for (size_t i = 0; i < 6; ++i) {
    all[i] = {kUnembed - static_cast<int64_t>(i), {}, identity};
    for (size_t parent = i + 1; parent < 6; ++parent) all[i].parents.push_back(parent);
  }
  return all;
}

TEST_F(Scrubbing, TheTrivialHypothesisIsTheModel) {
  const ScrubResult found = run(everything(), 1);
  EXPECT_NEAR(found.scrubbed_loss, found.model_loss, 1e-12);
  EXPECT_NEAR(found.recovered, 1, 1e-9);
  EXPECT_NEAR(found.kl, 0, 1e-12);
  for (size_t x = 0; x < data_.labels.size(); ++x) {
    EXPECT_NEAR(found.scrubbed_losses[x], found.model_losses[x], 1e-12);
  }
}

TEST_F(Scrubbing, TheEmptyHypothesisShufflesTheExamples) {
  const ScrubResult found = run({{kUnembed}}, 400);
  EXPECT_NEAR(found.scrubbed_loss, found.shuffled_loss,
              0.05 * std::abs(found.shuffled_loss - found.model_loss));
  EXPECT_GT(found.kl, 0);
}

TEST_F(Scrubbing, TheRightHypothesisRecoversTheLoss) {
  const Hypothesis right = {{kUnembed, {1}},
                            {planted::kLayer2, {2}, identity},
                            {planted::kLayer1, {3}, identity},
                            {0, {}, identity}};
  const ScrubResult found = run(right);
  EXPECT_GT(found.recovered, 0.95);
  EXPECT_LT(found.kl, 0.01 * run({{kUnembed}}).kl);
}

TEST_F(Scrubbing, WrongHypothesesDoNot) {
  // Another path; the right one, but its middle said not to depend on the input.
  const Hypothesis other = {{kUnembed, {1}}, {4, {2}, identity}, {0, {}, identity}};
  const Hypothesis constant = {{kUnembed, {1}},
                               {planted::kLayer2, {2}, identity},
                               {planted::kLayer1, {3}, nothing},
                               {0, {}, identity}};
  EXPECT_LT(run(other).recovered, 0.2);
  EXPECT_LT(run(constant).recovered, 0.5);
}

// The head reads the last token alone. A node may be two, of some tokens each.
TEST_F(Scrubbing, WhatMattersAtSomeTokensMattersThereAlone) {
  const auto layer2_at = [](std::vector<int64_t> positions) {
    return Hypothesis{{kUnembed, {1}},
                      {planted::kLayer2, {2, 3}, identity, std::move(positions)},
                      {planted::kLayer1, {4}, identity, {0, 3}},
                      {planted::kLayer1, {4}, identity, {1, 2, 4}},
                      {0, {}, identity}};
  };
  const Hypothesis whole = {{kUnembed, {1}},
                            {planted::kLayer2, {2}, identity},
                            {planted::kLayer1, {3}, identity},
                            {0, {}, identity}};
  EXPECT_NEAR(run(layer2_at({4})).recovered, run(whole).recovered, 0.02);
  EXPECT_LT(run(layer2_at({0, 1, 2, 3})).recovered, 0.5);
  EXPECT_NEAR(run(layer2_at({3, 4})).kl, run(layer2_at({4})).kl, 0.01);
}

TEST(EqualLoss, IsBetweenTheNeighboursInSize) {
  const std::vector<SizedLoss> family = {{10000, 1.0}, {100, 3.0}, {1000, 2.0}};
  EXPECT_NEAR(size_of_equal_loss(family, 2.0), 1000, 1e-6);
  EXPECT_NEAR(size_of_equal_loss(family, 1.5), std::sqrt(1000.0 * 10000), 1e-6);
  EXPECT_NEAR(size_of_equal_loss(family, 3.0), 100, 1e-6);
  EXPECT_TRUE(std::isnan(size_of_equal_loss(family, 0.9)));
  EXPECT_TRUE(std::isnan(size_of_equal_loss(family, 3.1)));
  EXPECT_TRUE(std::isnan(size_of_equal_loss({}, 1)));
}

// To say that a node computes less recovers no more than to say that it computes all.
TEST_F(Scrubbing, AFeatureThatHoldsTheAnswerIsEnough) {
  const auto answer = [this](size_t example) { return data_.labels[example]; };
  const Hypothesis by_answer = {{kUnembed, {1}},
                                {planted::kLayer2, {2}, answer},
                                {planted::kLayer1, {3}, identity},
                                {0, {}, identity}};
  const double recovered = run(by_answer).recovered;
  EXPECT_GT(recovered, 0.5);
  EXPECT_LT(recovered, 1.0001);
}

TEST_F(Scrubbing, RefusesWhatIsNoHypothesis) {
  EXPECT_THROW(run({}), Error);
  EXPECT_THROW(run({{kUnembed}}, 0), Error);
  EXPECT_THROW(run({{0, {}, identity}}), Error);
  EXPECT_THROW(run({{kUnembed, {1}}, {kUnembed, {}, identity}}), Error);
  EXPECT_THROW(run({{kUnembed, {2}}, {0, {}, identity}}), Error);
  EXPECT_THROW(run({{kUnembed, {1, 2}}, {0, {}, identity}, {0, {}, identity}}), Error);
  EXPECT_THROW(run({{kUnembed, {1}}, {0, {}}}), Error);
  EXPECT_THROW(run({{kUnembed, {1}}, {0, {}, identity, {5}}}), Error);
  EXPECT_THROW(run({{kUnembed, {1, 2}}, {0, {}, identity, {0}}, {0, {}, identity, {0, 1}}}), Error);
  data_.sequences[0].pop_back();
  EXPECT_THROW(run({{kUnembed}}), Error);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "elapse/core/error.h"

namespace elapse {
namespace {

using Logits = std::vector<double>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Logits of these probabilities, shifted: a constant added to all changes nothing.
Logits logits_of(const std::vector<double>& probabilities) {
  Logits logits;
  for (double p : probabilities) logits.push_back(std::log(p) + 700);
  return logits;
}

const Logits kLogits = logits_of({0.1, 0.4, 0.05, 0.25, 0.2});

// Token -> probability of being drawn.
std::map<int64_t, double> distribution(const SamplerOptions& options, const Logits& logits) {
  std::map<int64_t, double> by_token;
  double total = 0;
  for (const Candidate& c : Sampler(options).candidates(logits)) total += c.weight;
  for (const Candidate& c : Sampler(options).candidates(logits)) {
    by_token[c.token] = c.weight / total;
  }
  return by_token;
}

void expect_distribution(const SamplerOptions& options, const Logits& logits,
                         const std::map<int64_t, double>& expected) {
  const auto found = distribution(options, logits);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [token, p] : expected) {
    ASSERT_TRUE(found.contains(token)) << token;
    EXPECT_NEAR(found.at(token), p, 1e-12) << token;
  }
}

// Each token's count is within five standard deviations of its mean: a right sampler fails for one
// seed in a hundred thousand, and the seeds here are fixed.
void expect_frequencies(const SamplerOptions& options, const Logits& logits) {
  constexpr int64_t kDraws = 20000;
  const Sampler sampler(options);
  std::map<int64_t, int64_t> counts;
  for (int64_t position = 0; position < kDraws; ++position) {
    ++counts[sampler.sample(logits, position)];
  }
  int64_t drawn = 0;
  for (const auto& [token, p] : distribution(options, logits)) {
    const double mean = p * kDraws;
    EXPECT_NEAR(counts[token], mean, 5 * std::sqrt(mean * (1 - p))) << token;
    drawn += counts[token];
  }
  EXPECT_EQ(drawn, kDraws);
}

TEST(Sampler, LeavesTheDistributionAloneByDefault) {
  expect_distribution({}, kLogits, {{0, 0.1}, {1, 0.4}, {2, 0.05}, {3, 0.25}, {4, 0.2}});
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  // p^2, normalised by 0.01 + 0.16 + 0.0025 + 0.0625 + 0.04.
  expect_distribution({.temperature = 0.5}, kLogits,
                      {{0, 0.01 / 0.275},
                       {1, 0.16 / 0.275},
                       {2, 0.0025 / 0.275},
                       {3, 0.0625 / 0.275},
                       {4, 0.04 / 0.275}});
  const auto flat = distribution({.temperature = 1e6}, kLogits);
  for (const auto& [token, p] : flat) EXPECT_NEAR(p, 0.2, 1e-5) << token;
  EXPECT_EQ(distribution({.temperature = 1e-300}, kLogits).at(1), 1);
}

TEST(Sampler, TopK) {
  expect_distribution({.top_k = 1}, kLogits, {{1, 1}});
  expect_distribution({.top_k = 3}, kLogits, {{1, 0.4 / 0.85}, {3, 0.25 / 0.85}, {4, 0.2 / 0.85}});
  for (int64_t k : {int64_t{0}, int64_t{5}, int64_t{6}, INT64_MAX}) {
    EXPECT_EQ(distribution({.top_k = k}, kLogits).size(), 5U) << k;
  }
}

TEST(Sampler, TopP) {
  expect_distribution({.top_p = 0}, kLogits, {{1, 1}});
  expect_distribution({.top_p = 0.39}, kLogits, {{1, 1}});
  expect_distribution({.top_p = 0.41}, kLogits, {{1, 0.4 / 0.65}, {3, 0.25 / 0.65}});
  EXPECT_EQ(distribution({.top_p = 0.94}, kLogits).size(), 4U);
  EXPECT_EQ(distribution({.top_p = 0.96}, kLogits).size(), 5U);
  EXPECT_EQ(distribution({.top_p = 1}, kLogits).size(), 5U);
}

TEST(Sampler, MinP) {
  expect_distribution({.min_p = 0.6}, kLogits, {{1, 0.4 / 0.65}, {3, 0.25 / 0.65}});
  expect_distribution({.min_p = 1}, kLogits, {{1, 1}});
  EXPECT_EQ(distribution({.min_p = 0.124}, kLogits).size(), 5U);
  EXPECT_EQ(distribution({.min_p = 0.126}, kLogits).size(), 4U);
}

TEST(Sampler, EachSeesWhatTheOneBeforeKept) {
  // Of all, 0.6 takes two tokens; of the two top ones 0.4 / 0.65 alone is enough.
  EXPECT_EQ(distribution({.top_p = 0.6}, kLogits).size(), 2U);
  EXPECT_EQ(distribution({.top_k = 2, .top_p = 0.6}, kLogits).size(), 1U);
  // The temperature comes last: it does not change who is kept.
  EXPECT_EQ(distribution({.temperature = 100, .top_p = 0.6}, kLogits).size(), 2U);
  EXPECT_EQ(distribution({.temperature = 0.01, .min_p = 0.126}, kLogits).size(), 4U);
}

TEST(Sampler, ExactlyTheLowestOfEqualTokens) {
  const Logits equal(9, -3.5);
  expect_distribution({.temperature = 0}, equal, {{0, 1}});
  expect_distribution({.top_k = 2}, equal, {{0, 0.5}, {1, 0.5}});
  expect_distribution({.top_p = 0.3}, equal, {{0, 1. / 3}, {1, 1. / 3}, {2, 1. / 3}});
  EXPECT_EQ(distribution({.min_p = 1}, equal).size(), 9U);
  expect_distribution({.top_k = 2}, {0, 7, 5, 7, 7}, {{1, 0.5}, {3, 0.5}});
}

TEST(Sampler, TellsLogitsApartThatHaveEqualProbabilities) {
  // exp(-800) and exp(-900) are both zero.
  expect_distribution({.top_k = 2}, {-900, 0, -800}, {{1, 1}, {2, 0}});
  EXPECT_EQ(Sampler({.temperature = 0}).sample({{-900, -1000, -899}}, 0), 2);
}

TEST(Sampler, NeverDrawsMinusInfinity) {
  const Logits one = {-kInfinity, -kInfinity, -1e300, -kInfinity};
  for (const SamplerOptions& options :
       {SamplerOptions{}, SamplerOptions{.temperature = 0}, SamplerOptions{.temperature = 1e9},
        SamplerOptions{.top_k = 3}, SamplerOptions{.top_p = 0.5}, SamplerOptions{.min_p = 0.1}}) {
    for (int64_t position = 0; position < 20; ++position) {
      EXPECT_EQ(Sampler(options).sample(one, position), 2);
    }
  }
}

TEST(Sampler, RefusesLogitsThatAreNoDistribution) {
  for (double temperature : {0.0, 1.0}) {
    const Sampler sampler({.temperature = temperature});
    EXPECT_THROW(sampler.sample({{1, kNaN, 2}}, 0), Error);
    EXPECT_THROW(sampler.sample({{kNaN}}, 0), Error);
    EXPECT_THROW(sampler.sample({{1, kInfinity}}, 0), Error);
    EXPECT_THROW(sampler.sample({{-kInfinity, -kInfinity}}, 0), Error);
    EXPECT_THROW(sampler.sample({}, 0), Error);
  }
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -0.1}), Error);
  EXPECT_THROW(Sampler({.temperature = kNaN}), Error);
  EXPECT_THROW(Sampler({.temperature = kInfinity}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.01}), Error);
  EXPECT_THROW(Sampler({.top_p = kNaN}), Error);
  EXPECT_THROW(Sampler({.min_p = -0.01}), Error);
}

TEST(Sampler, DrawsAsOftenAsIsLikely) {
  expect_frequencies({.seed = 1}, kLogits);
  expect_frequencies({.temperature = 0.5, .seed = 2}, kLogits);
  expect_frequencies({.temperature = 2, .top_k = 4, .top_p = 0.9, .min_p = 0.3, .seed = 3},
                     kLogits);
  expect_frequencies({.seed = 4}, Logits(50, 0.0));
}

TEST(Sampler, ADrawIsAFunctionOfSeedAndPosition) {
  const Logits logits(1000, 0.0);
  const auto draws = [&](uint64_t seed) {
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < 50; ++i) tokens.push_back(Sampler({.seed = seed}).sample(logits, i));
    return tokens;
  };
  const std::vector<int64_t> first = draws(7);
  EXPECT_EQ(draws(7), first);
  EXPECT_NE(draws(8), first);
  // Neighbouring positions do not share their draws.
  int64_t repeats = 0;
  for (size_t i = 1; i < first.size(); ++i) repeats += first[i] == first[i - 1];
  EXPECT_LE(repeats, 2);
  EXPECT_EQ(Sampler({.seed = 7}).sample(logits, 49), first.back());
}

}  // namespace
}  // namespace elapse

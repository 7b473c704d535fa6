// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/and_construction.h"

#include <gtest/gtest.h>

#include <cmath>

namespace elapse {
namespace {

std::vector<OnList> draw_inputs(int64_t d0, int64_t ones, int64_t count) {
  Random random(5);
  std::vector<OnList> inputs;
  for (int64_t i = 0; i < count; ++i) inputs.push_back(draw_on(random, d0, ones));
  return inputs;
}

TEST(AndConstruction, ReadsAHandMadeLayerExactly) {
  NeuronSets sets(4, 6);
  const std::vector<std::vector<int64_t>> S = {{0, 1, 2}, {1, 2, 3}, {2, 4}, {5}};
  for (size_t i = 0; i < S.size(); ++i) {
    for (const int64_t k : S[i]) sets.set(static_cast<int64_t>(i), k);
  }
  EXPECT_EQ(sets.shared(0, 1), 2);
  EXPECT_EQ(read_and(sets, {0, 1}, {0, 1}), 1);
  EXPECT_EQ(read_and(sets, {0}, {0, 1}), 0);
  EXPECT_EQ(read_and(sets, {0, 1, 2}, {0, 1}), 1.5);  // neuron 2 hears all three
  EXPECT_EQ(read_and(sets, {0, 2}, {0, 1}), 0.5);
  EXPECT_EQ(read_and(sets, {0, 3}, {0, 3}), 0);  // no neuron reads both

  const ConstructionErrors e = measure_construction(sets, {{0, 1, 2}}, 1);
  EXPECT_EQ(e.pairs, 6);
  EXPECT_EQ(e.empty_pairs, 3);  // those of input 3
  EXPECT_EQ(e.and_[kBoth].count, 3);
  EXPECT_DOUBLE_EQ(e.and_[kBoth].sum, 0.5 + 1 + 1);
  EXPECT_DOUBLE_EQ(e.xor_[kBoth].sum, -2 * 2.5);
  EXPECT_EQ(e.and_[kOne].count + e.and_[kNeither].count, 0);
  EXPECT_DOUBLE_EQ(e.worst_class(), 2.5 / 3);
  // The only pair that is on shares no neuron, and reads 0 for 1.
  const ConstructionErrors empty = measure_construction(sets, {{0, 3}}, 1);
  EXPECT_EQ(empty.empty_reads[kBoth], 1);
  EXPECT_EQ(empty.empty_reads[kOne] + empty.empty_reads[kNeither], 2);
  EXPECT_DOUBLE_EQ(empty.worst_class(), 1);
}

TEST(AndConstruction, ActiveNeuronsAreThoseOfTheLayer) {
  const NeuronSets sets = NeuronSets::bernoulli(20, 130, 0.2, 1, 0, 1);
  const OnList on = {1, 4, 9, 13, 17};
  size_t next = 0;
  const std::vector<NeuronSets::Active> active = sets.active(on);
  for (int64_t k = 0; k < sets.d(); ++k) {
    int64_t a = -1;
    for (const int64_t i : on) a += sets.reads(i, k) ? 1 : 0;
    if (a <= 0) continue;
    ASSERT_LT(next, active.size());
    EXPECT_EQ(active[next].neuron, k);
    EXPECT_EQ(active[next++].a, a);
  }
  EXPECT_EQ(next, active.size());
}

// Every pair and every input, one by one.
TEST(AndConstruction, ErrorsAreThoseOfTheReadOffByItsDefinition) {
  const NeuronSets sets = NeuronSets::bernoulli(20, 130, 0.15, 2, 0, 2);
  for (const int64_t ones : {1, 2, 3, 5}) {
    const std::vector<OnList> inputs = draw_inputs(20, ones, 7);
    ClassErrors and_, xor_;
    for (const OnList& on : inputs) {
      const std::vector<uint8_t> flags = as_flags(on, 20);
      for (int64_t i = 0; i < 20; ++i) {
        for (int64_t j = i + 1; j < 20; ++j) {
          if (sets.shared(i, j) == 0) continue;
          const int n = flags[static_cast<size_t>(i)] + flags[static_cast<size_t>(j)];
          const double read = read_and(sets, on, {i, j});
          and_[static_cast<size_t>(n)].add(read - (n == 2 ? 1 : 0));
          xor_[static_cast<size_t>(n)].add(n - 2 * read - (n == 1 ? 1 : 0));
        }
      }
    }
    const ConstructionErrors e = measure_construction(sets, inputs, 2);
    for (size_t c = 0; c < kPairClasses; ++c) {
      for (const auto& [fast, slow] : {std::pair(e.and_[c], and_[c]), {e.xor_[c], xor_[c]}}) {
        EXPECT_EQ(fast.count, slow.count) << ones;
        EXPECT_EQ(fast.within, slow.within);
        EXPECT_NEAR(fast.sum, slow.sum, 1e-9);
        EXPECT_NEAR(fast.sum_squares, slow.sum_squares, 1e-9);
        EXPECT_EQ(fast.largest, slow.largest);
      }
    }
  }
}

TEST(AndConstruction, XorIsWrongTwiceAsMuchTheOtherWay) {
  const NeuronSets sets = NeuronSets::bernoulli(32, 512, 0.1, 3, 0, 1);
  const ConstructionErrors e = measure_construction(sets, draw_inputs(32, 3, 40), 1);
  for (size_t c = 0; c < kPairClasses; ++c) {
    EXPECT_NEAR(e.xor_[c].sum, -2 * e.and_[c].sum, 1e-9);
    EXPECT_NEAR(e.xor_[c].sum_squares, 4 * e.and_[c].sum_squares, 1e-9);
  }
}

TEST(AndConstruction, TheLawIsOneOfBinomialExpectations) {
  const double p = 0.04;
  const auto law = and_error_law(3, p);
  EXPECT_DOUBLE_EQ(law[kBoth], p);
  EXPECT_DOUBLE_EQ(law[kOne], 2 * p);
  // Two of three: 1, all three: 2.
  EXPECT_NEAR(law[kNeither], 3 * p * p * (1 - p) + 2 * p * p * p, 1e-15);
  EXPECT_NEAR(law[kNeither], 3 * p * p, 0.02 * 3 * p * p);  // C(3, 2) p^2
}

// Within four standard errors of what the inputs leave to chance, and 3 % for W's own.
TEST(AndConstruction, MeanErrorsFollowTheLaw) {
  const double p = 0.04;
  const NeuronSets sets = NeuronSets::bernoulli(128, 4096, p, 1, 0, 2);
  for (const int64_t ones : {2, 3, 5}) {
    const ConstructionErrors e = measure_construction(sets, draw_inputs(128, ones, 1024), 2);
    const auto law = and_error_law(ones, p);
    for (size_t c = 0; c < kPairClasses; ++c) {
      EXPECT_NEAR(e.and_[c].mean(), law[c], 4 * e.standard_errors[c] + 0.03 * law[c])
          << ones << " on, class " << c;
    }
    EXPECT_NEAR(e.empty_share(), std::exp(4096 * std::log1p(-p * p)), 0.002);
  }
}

TEST(AndConstruction, ErrorHalvesWhereTheWidthQuadruples) {
  double before = 0;
  for (const int64_t d : {1024, 4096, 16384}) {
    const NeuronSets sets = NeuronSets::bernoulli(128, d, sharing_p(d), 1, 0, 2);
    const double worst = measure_construction(sets, draw_inputs(128, 3, 512), 2).worst_class();
    EXPECT_NEAR(worst, 2 * sharing_p(d), 0.05 * worst) << d;
    if (before > 0) {
      EXPECT_NEAR(before / worst, 2, 0.1) << d;
    }
    before = worst;
  }
}

TEST(AndConstruction, TheSameBitsOnAnyNumberOfThreads) {
  const std::vector<OnList> inputs = draw_inputs(40, 3, 50);
  const NeuronSets one = NeuronSets::bernoulli(40, 500, 0.1, 4, 9, 1);
  const NeuronSets many = NeuronSets::bernoulli(40, 500, 0.1, 4, 9, 3);
  EXPECT_EQ(one.weights(), many.weights());
  const ConstructionErrors a = measure_construction(one, inputs, 1);
  const ConstructionErrors b = measure_construction(many, inputs, 3);
  for (size_t c = 0; c < kPairClasses; ++c) {
    EXPECT_EQ(a.and_[c].sum, b.and_[c].sum);
    EXPECT_EQ(a.xor_[c].sum_squares, b.xor_[c].sum_squares);
    EXPECT_EQ(a.standard_errors[c], b.standard_errors[c]);
  }
}

}  // namespace
}  // namespace elapse

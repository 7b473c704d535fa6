// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>
#include <vector>

namespace elapse {
namespace {

using Counter = std::array<uint32_t, 4>;

// Random123's known answers for philox4x32 with 10 rounds (its tests/kat_vectors).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<uint32_t> take(Random random, int count) {
  std::vector<uint32_t> numbers;
  for (int i = 0; i < count; ++i) numbers.push_back(random.next_u32());
  return numbers;
}

TEST(Random, NumbersAreBlocksInOrder) {
  const uint64_t seed = 0x1122334455667788;
  const uint64_t stream = 0x99aabbccddeeff00;
  const auto numbers = take(Random(seed, stream), 12);
  for (uint32_t block = 0; block < 3; ++block) {
    const Counter expected = philox({block, 0, 0xddeeff00, 0x99aabbcc}, {0x55667788, 0x11223344});
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(numbers[4 * block + i], expected[i]);
  }
}

TEST(Random, PositionsBeyond32BitsCount) {
  Random random(7);
  random.seek(uint64_t{4} << 32);
  EXPECT_EQ(random.next_u32(), philox({0, 1, 0, 0}, {7, 0})[0]);
}

TEST(Random, SeekGivesTheSameNumbersAgain) {
  Random random(5, 6);
  std::vector<uint32_t> numbers = take(random, 40);
  for (const uint64_t position : {39, 0, 3, 4, 5, 17, 16, 17, 38}) {
    random.seek(position);
    EXPECT_EQ(random.next_u32(), numbers[position]) << position;
    EXPECT_EQ(random.position(), position + 1);
  }
}

TEST(Random, RestoredFromItsPositionGoesOnAlike) {
  Random random(8, 9);
  for (int i = 0; i < 5; ++i) random.normal();
  Random restored(8, 9);
  restored.seek(random.position());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(restored.normal(), random.normal());
}

TEST(Random, SeedsAndStreamsDiffer) {
  std::set<std::vector<uint32_t>> sequences;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (const uint64_t stream : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
      sequences.insert(take(Random(seed, stream), 8));
    }
  }
  EXPECT_EQ(sequences.size(), 9U);
}

TEST(Random, UniformIsTheTop53BitsOfTwoWords) {
  const auto words = take(Random(3), 2);
  const uint64_t bits = (uint64_t{words[0]} << 32 | words[1]) >> 11;
  EXPECT_EQ(Random(3).uniform(), std::ldexp(static_cast<double>(bits), -53));
}

TEST(Random, UniformMomentsAndRange) {
  constexpr int kCount = 200'000;
  Random random(11);
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double u = random.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    sum += u;
    squares += u * u;
  }
  // Five standard errors: of u, sqrt(1/12); of u^2, sqrt(4/45).
  EXPECT_NEAR(sum / kCount, 0.5, 5 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kCount));
}

TEST(Random, UniformOverAnInterval) {
  Random random(12);
  Random same(12);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(random.uniform(-3, 5), -3 + 8 * same.uniform());
}

TEST(Random, NormalMoments) {
  constexpr int kCount = 200'000;
  Random random(13);
  std::array<double, 5> moment{};
  for (int i = 0; i < kCount; ++i) {
    const double x = random.normal();
    ASSERT_TRUE(std::isfinite(x));
    for (size_t k = 1; k < 5; ++k) moment[k] += std::pow(x, k) / kCount;
  }
  // Five standard errors: the k-th power of a standard normal has E[x^2k] - E[x^k]^2 as variance.
  EXPECT_NEAR(moment[1], 0, 5 * std::sqrt(1.0 / kCount));
  EXPECT_NEAR(moment[2], 1, 5 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(moment[3], 0, 5 * std::sqrt(15.0 / kCount));
  EXPECT_NEAR(moment[4], 3, 5 * std::sqrt(96.0 / kCount));
}

// Pearson's statistic of `count` draws of below(n) against the uniform distribution.
double chi_squared(int64_t n, int count) {
  Random random(17, static_cast<uint64_t>(n));
  std::vector<int> drawn(static_cast<size_t>(n));
  for (int i = 0; i < count; ++i) ++drawn.at(static_cast<size_t>(random.below(n)));
  const double expected = static_cast<double>(count) / static_cast<double>(n);
  double sum = 0;
  for (const int times : drawn) sum += (times - expected) * (times - expected) / expected;
  return sum;
}

TEST(Random, BelowIsUniform) {
  for (const int64_t n : {2, 3, 7, 10, 64, 100}) {
    const double degrees = static_cast<double>(n - 1);
    EXPECT_LT(chi_squared(n, 60'000), degrees + 5 * std::sqrt(2 * degrees)) << n;
  }
}

TEST(Random, BelowOneTakesTheOnlyChoice) { EXPECT_EQ(Random(1).below(1), 0); }

// Over three quarters of 2^63, folding 64 bits without rejection would hit the first third of
// the range 3 times in 8 instead of once in 3.
TEST(Random, BelowHasNoBiasOverHugeRanges) {
  constexpr int kCount = 60'000;
  constexpr int64_t kThird = int64_t{1} << 61;
  Random random(19);
  int low = 0;
  for (int i = 0; i < kCount; ++i) {
    const int64_t value = random.below(3 * kThird);
    ASSERT_TRUE(value >= 0 && value < 3 * kThird);
    if (value < kThird) ++low;
  }
  EXPECT_NEAR(low / double{kCount}, 1.0 / 3, 5 * std::sqrt(2.0 / 9 / kCount));
}

}  // namespace
}  // namespace elapse

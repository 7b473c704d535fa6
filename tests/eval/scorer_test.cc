// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/scorer.h"

#include <gtest/gtest.h>

#include "elapse/ops/pointwise.h"
#include "tests/eval/one_by_one.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

struct Sequence {
  std::vector<int64_t> tokens;
  int64_t first;
};

class ScorerTest : public testing::TestWithParam<Kind> {
 protected:
  std::vector<TokenScore> scores(const std::vector<Sequence>& sequences, int64_t batch_tokens) {
    std::vector<TokenScore> all;
    Scorer scorer(model_, batch_tokens, [&](const TokenScore& score) { all.push_back(score); });
    for (const Sequence& s : sequences) scorer.add(s.tokens, s.first);
    scorer.finish();
    return all;
  }

  void expect_same(const std::vector<TokenScore>& found, const std::vector<TokenScore>& expected,
                   double tolerance) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      const TokenScore &f = found[i], &e = expected[i];
      SCOPED_TRACE(testing::Message() << "sequence " << e.sequence << " token " << e.position);
      EXPECT_EQ(std::tuple(f.sequence, f.position, f.token, f.likeliest, f.last),
                std::tuple(e.sequence, e.position, e.token, e.likeliest, e.last));
      ASSERT_NEAR(f.log_probability, e.log_probability, tolerance);
    }
  }

  Device device_{GetParam().device, 2};
  LanguageModel model_{device_, eval_config(), GetParam().dtype, 3};
};

// Shorter than a batch, as long, longer, and much longer; scored wholly, in part and at the end.
std::vector<Sequence> many_lengths() {
  std::vector<Sequence> sequences;
  for (const auto& [length, first] : {std::pair<int64_t, int64_t>(2, 1),
                                      {9, 1},
                                      {8, 5},
                                      {150, 149},
                                      {40, 1},
                                      {3, 2},
                                      {150, 20},
                                      {2, 1},
                                      {17, 9}}) {
    sequences.push_back({random_tokens(length, static_cast<uint64_t>(length + first)), first});
  }
  return sequences;
}

TEST_P(ScorerTest, AgreesWithOneStepAfterTheOther) {
  const auto sequences = many_lengths();
  std::vector<TokenScore> expected;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto scores =
        scores_one_by_one(model_, sequences[s].tokens, sequences[s].first, static_cast<int64_t>(s));
    expected.insert(expected.end(), scores.begin(), scores.end());
  }
  expect_same(scores(sequences, 64), expected, score_tolerance(model_, 150));
}

TEST_P(ScorerTest, FindsTheSameWhateverTheBatch) {
  const auto sequences = many_lengths();
  const auto whole = scores(sequences, 100'000);
  for (int64_t batch_tokens : {1, 2, 7, 8, 39, 149, 150, 381}) {
    SCOPED_TRACE(batch_tokens);
    expect_same(scores(sequences, batch_tokens), whole, score_tolerance(model_, 150));
  }
}

TEST_P(ScorerTest, MemoryDoesNotGrowWithTheSequences) {
  const auto held_after = [&](int64_t length) {
    scores({{random_tokens(length), 1}, {random_tokens(50), 1}, {random_tokens(length), 1}}, 64);
    return device_.pool().bytes_held();
  };
  const int64_t held = held_after(2 * 64 + 1);
  EXPECT_EQ(held_after(6 * 64 + 1), held);
}

TEST_P(ScorerTest, RefusesWhatCannotBeScored) {
  const auto take = [](const TokenScore&) {};
  expect_error([&] { Scorer(model_, 0, take); }, "batch_tokens: expected at least 1, found 0");
  Scorer scorer(model_, 8, take);
  const std::vector<int64_t> tokens = {1, 2, 3};
  for (int64_t first : {-1, 0, 3, 4}) {
    expect_error(
        [&] { scorer.add(tokens, first); },
        fmt::format("sequence 0: expected the first scored token to be 1 to 2, found {}", first));
  }
  scorer.add(tokens, 1);
  for (int64_t wrong : {-1, 16}) {
    const std::vector<int64_t> with_wrong = {1, 2, wrong};
    expect_error([&] { scorer.add(with_wrong, 1); },
                 fmt::format("token 2 of sequence 1: expected 0 to 15, found {}", wrong));
  }
}

TEST_P(ScorerTest, SaysWhereTheLogitsAreNotFinite) {
  const auto& head = model_.parameters().all().back();
  ASSERT_EQ(head.name, "lm_head.weight");
  fill(device_, {head.var.value(), std::numeric_limits<double>::quiet_NaN()});
  expect_error(
      [&] {
        scores({{{1, 2, 3}, 1}}, 8);
      },
      "the model's logits for token 1 of sequence 0 are not finite");
}

INSTANTIATE_TEST_SUITE_P(Kinds, ScorerTest, testing::ValuesIn(every_kind()), KindName());

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/lambada.h"

#include <gtest/gtest.h>

#include "tests/eval/one_by_one.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

// Pieces of text, found longest first.
class PieceTokenizer final : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}

  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> tokens;
    while (!text.empty()) {
      size_t best = pieces_.size();
      for (size_t i = 0; i < pieces_.size(); ++i) {
        const bool fits = text.starts_with(pieces_[i]);
        if (fits && (best == pieces_.size() || pieces_[i].size() > pieces_[best].size())) best = i;
      }
      ELAPSE_CHECK(best < pieces_.size(), "no piece begins {}", text);
      tokens.push_back(static_cast<int64_t>(best));
      text.remove_prefix(pieces_[best].size());
    }
    return tokens;
  }
  std::string decode(int64_t token) const override { return pieces_[static_cast<size_t>(token)]; }

 private:
  std::vector<std::string> pieces_;
};

struct Pieces {
  std::vector<std::string> context, continuation;
  bool operator==(const Pieces&) const = default;
};
void PrintTo(const Pieces& pieces, std::ostream* out) {
  *out << testing::PrintToString(pieces.context) << testing::PrintToString(pieces.continuation);
}

Pieces encoded(const Continuation& example) {
  const PieceTokenizer tokenizer({"a", "b", "c", " ", "\n", " a", " b", "ab", " ab", "c a"});
  const EncodedContinuation found = encode(tokenizer, example);
  Pieces pieces;
  for (size_t t = 0; t < found.tokens.size(); ++t) {
    auto& side = static_cast<int64_t>(t) < found.first ? pieces.context : pieces.continuation;
    side.push_back(tokenizer.decode(found.tokens[t]));
  }
  return pieces;
}

TEST(EncodedContinuation, BeginsWithTheSpaceBetweenWords) {
  const Pieces expected = {{"a", " b"}, {" ab", "c"}};
  EXPECT_EQ(encoded({"a b", "abc"}), expected);
  EXPECT_EQ(encoded({"a b ", "abc"}), expected);
  EXPECT_EQ(encoded({"a b", " abc"}), expected);
  EXPECT_EQ(encoded({"a b  ", "abc"}), (Pieces{{"a", " b"}, {" ", " ab", "c"}}));
  EXPECT_EQ(encoded({"a b\n", "abc"}), (Pieces{{"a", " b"}, {"\n", "ab", "c"}}));
}

// What a token over the seam takes from the continuation is not scored: the harness does so too.
TEST(EncodedContinuation, IsWhatTheWholeHasBeyondTheContextsTokens) {
  EXPECT_EQ(encoded({"b c", "ab"}), (Pieces{{"b", " ", "c"}, {"b"}}));
  EXPECT_EQ(encoded({"c", "a"}), (Pieces{{"c"}, {}}));
}

class LambadaTest : public testing::TestWithParam<Kind> {
 protected:
  // A character is a token; six of the sixteen are space.
  const std::string characters_ = " \t\n\v\f\rabcdefghij";

  PieceTokenizer tokenizer() const {
    std::vector<std::string> pieces;
    for (char c : characters_) pieces.emplace_back(1, c);
    return PieceTokenizer(pieces);
  }

  std::string words(int64_t length, uint64_t seed) const {
    Random random(seed);
    std::string text;
    for (int64_t i = 0; i < length; ++i)
      text += characters_[static_cast<size_t>(6 + random.below(10))];
    return text;
  }

  // The two likeliest characters, one after the other.
  std::string likeliest_after(const std::string& context) const {
    std::string text;
    Session session(model_);
    session.prefill(tokenizer().encode(context));
    for (int i = 0; i < 2; ++i) {
      const auto logits = session.logits();
      const auto token = std::ranges::max_element(logits) - logits.begin();
      text += characters_[static_cast<size_t>(token)];
      session.step(token);
    }
    return text;
  }

  // Contexts of one to thirty characters; where the model would begin a new word, its own.
  std::vector<Continuation> examples() const {
    std::vector<Continuation> all;
    for (uint64_t i = 0; i < 30; ++i) {
      const std::string context = words(static_cast<int64_t>(1 + i), i);
      const std::string likeliest = likeliest_after(context);
      const bool a_word = characters_.find(likeliest[0]) < 6 && characters_.find(likeliest[1]) >= 6;
      all.push_back({context, a_word ? likeliest : words(1 + i % 3, i)});
    }
    return all;
  }

  LambadaEvaluation evaluate(const std::vector<Continuation>& all, int64_t batch_tokens) const {
    int64_t seen = 0;
    const auto found = evaluate_lambada(
        model_, tokenizer(), all, batch_tokens,
        [&](const LambadaEvaluation& so_far) { EXPECT_EQ(so_far.accuracy.count(), ++seen); });
    EXPECT_EQ(seen, found.accuracy.count());
    return found;
  }

  Device device_{GetParam().device, 2};
  LanguageModel model_{device_, eval_config(), GetParam().dtype, 3};
};

TEST_P(LambadaTest, IsWhatOneStepAfterTheOtherFinds) {
  const auto all = examples();
  RunningMean accuracy, log_probability;
  int64_t tokens = 0;
  for (const Continuation& example : all) {
    const EncodedContinuation encoded = encode(tokenizer(), example);
    double sum = 0;
    bool likeliest = true;
    for (const TokenScore& s : scores_one_by_one(model_, encoded.tokens, encoded.first)) {
      sum += s.log_probability;
      likeliest = likeliest && s.likeliest;
      ++tokens;
    }
    accuracy.add(likeliest ? 1 : 0);
    log_probability.add(sum);
  }
  EXPECT_GT(accuracy.sum(), 0);
  EXPECT_LT(accuracy.sum(), 30);
  const double tolerance = 4 * score_tolerance(model_, 34);  // a continuation has up to 4 tokens
  for (int64_t batch_tokens : {1, 30, 10'000}) {
    SCOPED_TRACE(batch_tokens);
    const LambadaEvaluation found = evaluate(all, batch_tokens);
    EXPECT_EQ(found.tokens, tokens);
    EXPECT_EQ(found.accuracy.mean(), accuracy.mean());
    EXPECT_EQ(found.accuracy.standard_error(), accuracy.standard_error());
    EXPECT_NEAR(std::log(found.perplexity()), -log_probability.mean(), tolerance);
    EXPECT_NEAR(found.perplexity_error(),
                std::exp(-log_probability.mean()) * log_probability.standard_error(),
                tolerance * found.perplexity());
  }
}

TEST_P(LambadaTest, NamesTheExampleWithoutTokens) {
  expect_error(
      [&] {
        evaluate({{"a", "b"}, {"  ", "b"}}, 8);
      },
      "example 2: expected tokens of the context and more with the continuation, found 0 "
      "and 3");
}

INSTANTIATE_TEST_SUITE_P(Kinds, LambadaTest, testing::ValuesIn(every_kind()), KindName());

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/text_evaluation.h"

#include <gtest/gtest.h>

#include <numbers>

#include "tests/eval/one_by_one.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

// Token t stands for t bytes.
class UnevenTokenizer final : public Tokenizer {
 public:
  int64_t vocab_size() const override { return 16; }
  std::vector<int64_t> encode(std::string_view) const override { return {}; }
  std::string decode(int64_t token) const override {
    return std::string(static_cast<size_t>(token), 'x');
  }
};

using Positions = std::vector<int64_t>;

// The loop of Hugging Face's guide "Perplexity of fixed-length models", its names kept. Of a
// window's targets the first, if it is the window's first token, has no logits.
struct GuideWindow {
  int64_t begin_loc, end_loc;
  Positions scored;
};
std::vector<GuideWindow> windows_of_the_guide(int64_t seq_len, int64_t max_length, int64_t stride) {
  std::vector<GuideWindow> windows;
  int64_t prev_end_loc = 0;
  for (int64_t begin_loc = 0; begin_loc < seq_len; begin_loc += stride) {
    const int64_t end_loc = std::min(begin_loc + max_length, seq_len);
    const int64_t trg_len = end_loc - prev_end_loc;
    GuideWindow window = {begin_loc, end_loc, {}};
    for (int64_t t = end_loc - trg_len; t < end_loc; ++t) {
      if (t > begin_loc) window.scored.push_back(t);
    }
    windows.push_back(window);
    prev_end_loc = end_loc;
    if (end_loc == seq_len) break;
  }
  return windows;
}

class TextEvaluationTest : public testing::Test {
 protected:
  TextEvaluation evaluate(const std::vector<int64_t>& tokens, const Windows& windows,
                          int64_t batch_tokens = 64) {
    positions_.clear();
    return evaluate_text(model_, UnevenTokenizer(), tokens, windows, batch_tokens,
                         [&](int64_t position, const TokenScore&, const TextEvaluation& so_far) {
                           positions_.push_back(position);
                           EXPECT_EQ(so_far.nats.count(), static_cast<int64_t>(positions_.size()));
                         });
  }

  Device device_{"ref", 2};
  LanguageModel model_{device_, eval_config(), DType::f64, 3};
  Positions positions_;  // that the last evaluation scored
};

TEST_F(TextEvaluationTest, ScoresWhatTheGuideScores) {
  for (int64_t length : {2, 3, 5, 8, 9, 10, 31}) {
    for (const auto& [window, stride] : {std::pair<int64_t, int64_t>(2, 1),
                                         {2, 2},
                                         {4, 1},
                                         {4, 3},
                                         {4, 4},
                                         {9, 4},
                                         {30, 29},
                                         {100, 1},
                                         {100, 100}}) {
      SCOPED_TRACE(testing::Message() << length << " " << window << " " << stride);
      const auto tokens = random_tokens(length);
      Positions scored;
      RunningMean nats;
      int64_t bytes = 0, windows = 0;
      for (const GuideWindow& w : windows_of_the_guide(length, window, stride)) {
        if (w.scored.empty()) continue;
        ++windows;
        scored.insert(scored.end(), w.scored.begin(), w.scored.end());
        const auto scores =
            scores_one_by_one(model_, {tokens.begin() + w.begin_loc, tokens.begin() + w.end_loc},
                              w.scored.front() - w.begin_loc);
        for (const TokenScore& s : scores) {
          nats.add(-s.log_probability);
          bytes += s.token;
        }
      }
      const TextEvaluation found = evaluate(tokens, {window, stride});
      EXPECT_EQ(positions_, scored);
      EXPECT_EQ((Windows{window, stride}.scored_tokens(length)), found.nats.count());
      EXPECT_EQ(found.windows, windows);
      EXPECT_EQ(found.bytes, bytes);
      EXPECT_NEAR(found.nats.mean(), nats.mean(), 1e-12);
    }
  }
}

TEST_F(TextEvaluationTest, WindowZeroReadsTheWholeTextAsOne) {
  const auto tokens = random_tokens(150);
  RunningMean nats;
  for (const TokenScore& s : scores_one_by_one(model_, tokens, 1)) nats.add(-s.log_probability);
  for (int64_t batch_tokens : {1, 60, 149, 1000}) {
    const TextEvaluation found = evaluate(tokens, {.window = 0}, batch_tokens);
    EXPECT_EQ(found.nats.count(), 149);
    EXPECT_EQ(found.windows, 1);
    EXPECT_EQ(positions_.front(), 1);
    EXPECT_EQ(positions_.back(), 149);
    EXPECT_NEAR(found.nats.mean(), nats.mean(), 1e-12);
  }
}

TEST_F(TextEvaluationTest, FindsTheSameWhateverTheBatch) {
  const auto tokens = random_tokens(100);
  const TextEvaluation whole = evaluate(tokens, {32, 20}, 10'000);
  for (int64_t batch_tokens : {1, 10, 31, 32, 33, 100}) {
    const TextEvaluation found = evaluate(tokens, {32, 20}, batch_tokens);
    EXPECT_NEAR(found.nats.mean() / whole.nats.mean(), 1, 1e-12);
    EXPECT_NEAR(found.nats.standard_error() / whole.nats.standard_error(), 1, 1e-12);
    EXPECT_EQ(found.bytes, whole.bytes);
  }
}

TEST_F(TextEvaluationTest, TheMeasuresAreOfTheSameSum) {
  const TextEvaluation found = evaluate({3, 1, 15, 4}, {});
  EXPECT_EQ(found.bytes, 1 + 15 + 4);  // not those of the first token, which is not scored
  const double bits = found.nats.sum() / std::numbers::ln2;
  EXPECT_DOUBLE_EQ(found.bits_per_token(), bits / 3);
  EXPECT_DOUBLE_EQ(found.bits_per_byte(), bits / 20);
  EXPECT_DOUBLE_EQ(found.perplexity(), std::exp2(bits / 3));
  EXPECT_DOUBLE_EQ(found.perplexity_error(), found.perplexity() * found.nats.standard_error());
}

TEST_F(TextEvaluationTest, RefusesWhatCannotBeMeasured) {
  for (int64_t length : {0, 1}) {
    expect_error([&] { evaluate(random_tokens(length), {}); },
                 fmt::format("too short: expected at least 2 tokens, found {}", length));
  }
  const auto tokens = random_tokens(5);
  for (int64_t window : {-1, 1}) {
    expect_error(
        [&] {
          evaluate(tokens, {window, 1});
        },
        fmt::format("window: expected 0 (the whole text) or at least 2 tokens, found {}", window));
  }
  for (int64_t stride : {-1, 0, 9}) {
    expect_error(
        [&] {
          evaluate(tokens, {8, stride});
        },
        fmt::format("stride: expected 1 to 8 tokens (the window), found {}", stride));
  }
}

}  // namespace
}  // namespace elapse

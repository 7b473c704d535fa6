// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/lambada.h"

#include <cmath>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr std::string_view kSpace = " \t\n\v\f\r";

// Adds an example's tokens, one after the other, and then the example.
class Examples {
 public:
  Examples(LambadaEvaluation& found, const LambadaObserver& observe)
      : found_(found), observe_(observe) {}

  void take(const TokenScore& score) {
    log_probability_ += score.log_probability;
    foreseen_ = foreseen_ && score.likeliest;
    ++found_.tokens;
    if (score.last) finish();
  }

 private:
  void finish() {
    found_.accuracy.add(foreseen_ ? 1 : 0);
    found_.log_probability.add(log_probability_);
    observe_(found_);
    log_probability_ = 0;
    foreseen_ = true;
  }

  LambadaEvaluation& found_;
  const LambadaObserver& observe_;
  double log_probability_ = 0;
  bool foreseen_ = true;
};

}  // namespace

EncodedContinuation encode(const Tokenizer& tokenizer, const Continuation& example) {
  const size_t words = example.context.find_last_not_of(kSpace) + 1;  // 0 where there are none
  const std::string context = example.context.substr(0, words);
  std::string seam = example.context.substr(words);
  if (seam.empty() && example.continuation.find_first_of(kSpace) != 0) seam += ' ';
  std::vector<int64_t> tokens = tokenizer.encode(context);
  const auto whole = tokenizer.encode(context + seam + example.continuation);
  const size_t first = tokens.size();
  for (size_t t = first; t < whole.size(); ++t) tokens.push_back(whole[t]);
  return {std::move(tokens), static_cast<int64_t>(first)};
}

double LambadaEvaluation::perplexity() const { return std::exp(-log_probability.mean()); }

double LambadaEvaluation::perplexity_error() const {
  return perplexity() * log_probability.standard_error();
}

LambadaEvaluation evaluate_lambada(const LanguageModel& model, const Tokenizer& tokenizer,
                                   std::span<const Continuation> examples, int64_t batch_tokens,
                                   const LambadaObserver& observe) {
  LambadaEvaluation found;
  Examples finished(found, observe);
  Scorer scorer(model, batch_tokens, [&](const TokenScore& score) { finished.take(score); });
  for (size_t i = 0; i < examples.size(); ++i) {
    const EncodedContinuation encoded = encode(tokenizer, examples[i]);
    const auto size = static_cast<int64_t>(encoded.tokens.size());
    ELAPSE_CHECK(encoded.first > 0 && encoded.first < size,
                 "example {}: expected tokens of the context and more with the continuation, found "
                 "{} and {}",
                 i + 1, encoded.first, size);
    scorer.add(encoded.tokens, encoded.first);
  }
  scorer.finish();
  return found;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/text_evaluation.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace elapse {
namespace {

// Tokens [begin, end), of which [first, end) are scored.
struct Window {
  int64_t begin, end, first;
};

// Those with scored tokens. They begin at multiples of the stride.
template <class Body>
void for_each_window(int64_t tokens, const Windows& windows, Body&& body) {
  const int64_t length = windows.window == 0 ? tokens : windows.window;
  for (int64_t begin = 0, reached = 0; reached < tokens; begin += windows.stride) {
    const int64_t end = std::min(tokens, begin + length);
    const int64_t first = std::max(reached, begin + 1);
    if (first < end) body(Window{begin, end, first});
    reached = end;
  }
}

}  // namespace

void Windows::check() const {
  if (window == 0) return;
  ELAPSE_CHECK(window >= 2, "window: expected 0 (the whole text) or at least 2 tokens, found {}",
               window);
  ELAPSE_CHECK(stride >= 1 && stride <= window,
               "stride: expected 1 to {} tokens (the window), found {}", window, stride);
}

int64_t Windows::scored_tokens(int64_t tokens) const {
  int64_t count = 0;
  for_each_window(tokens, *this, [&](const Window& w) { count += w.end - w.first; });
  return count;
}

double TextEvaluation::bits_per_token() const { return nats.mean() / std::numbers::ln2; }

double TextEvaluation::bits_per_byte() const {
  return nats.sum() / std::numbers::ln2 / static_cast<double>(bytes);
}

double TextEvaluation::perplexity() const { return std::exp(nats.mean()); }

double TextEvaluation::perplexity_error() const { return perplexity() * nats.standard_error(); }

TextEvaluation evaluate_text(const LanguageModel& model, const Tokenizer& tokenizer,
                             std::span<const int64_t> tokens, const Windows& windows,
                             int64_t batch_tokens, const TextObserver& observe) {
  windows.check();
  ELAPSE_CHECK(tokens.size() >= 2, "the text is too short: expected at least 2 tokens, found {}",
               tokens.size());
  TextEvaluation found;
  Scorer scorer(model, batch_tokens, [&](const TokenScore& score) {
    found.nats.add(-score.log_probability);
    found.bytes += static_cast<int64_t>(tokenizer.decode(score.token).size());
    found.windows = score.sequence + 1;
    observe(score.sequence * windows.stride + score.position, score, found);
  });
  for_each_window(static_cast<int64_t>(tokens.size()), windows, [&](const Window& w) {
    scorer.add(tokens.subspan(static_cast<size_t>(w.begin), static_cast<size_t>(w.end - w.begin)),
               w.first - w.begin);
  });
  scorer.finish();
  return found;
}

}  // namespace elapse

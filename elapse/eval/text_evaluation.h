// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/eval/running_mean.h"
#include "elapse/eval/scorer.h"
#include "elapse/text/tokenizer.h"

namespace elapse {

// How a text is cut into sequences that each start from an empty state: as in Hugging Face's
// "Perplexity of fixed-length models". Windows begin every `stride` tokens and reach over `window`
// tokens or to the text's end, where the first that gets there is the last. A window scores the
// tokens that none before it reached, but never its own first, before which nothing stands.
struct Windows {
  int64_t window = 1024;  // 0: the whole text is one sequence
  int64_t stride = 1024;  // equal to the window: disjoint windows

  void check() const;  // throws Error for a window of one token or a stride outside [1, window]
  int64_t scored_tokens(int64_t tokens) const;  // of a text of so many
};

// How well a model foresees a text.
struct TextEvaluation {
  RunningMean nats;     // of the scored tokens: each one's negative log-probability
  int64_t bytes = 0;    // that the scored tokens stand for
  int64_t windows = 0;  // with scored tokens

  double bits_per_token() const;
  double bits_per_byte() const;
  double perplexity() const;
  double perplexity_error() const;  // standard error, to first order
};

// Called for every scored token, in the order of the text, with its position there and what has
// been found up to and with it.
using TextObserver =
    std::function<void(int64_t position, const TokenScore& score, const TextEvaluation& so_far)>;

// `tokens`: a text's, by `tokenizer`. Throws Error for fewer than two.
TextEvaluation evaluate_text(const LanguageModel& model, const Tokenizer& tokenizer,
                             std::span<const int64_t> tokens, const Windows& windows,
                             int64_t batch_tokens, const TextObserver& observe);

}  // namespace elapse

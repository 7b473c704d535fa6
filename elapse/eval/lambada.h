// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/continuations.h"
#include "elapse/eval/running_mean.h"
#include "elapse/eval/scorer.h"
#include "elapse/text/tokenizer.h"

namespace elapse {

// A context's tokens and then its continuation's, which begin at `first`.
struct EncodedContinuation {
  std::vector<int64_t> tokens;
  int64_t first = 0;
};

// As lm-evaluation-harness cuts a pair: white space that ends the context is moved to the
// continuation, whose tokens are those of the whole beyond as many as the context alone has. Where
// neither text has white space at the seam a space stands there, as between words.
EncodedContinuation encode(const Tokenizer& tokenizer, const Continuation& example);

// LAMBADA (Paperno et al., 2016): the last word of a passage that takes the whole of it to guess.
// As lm-evaluation-harness measures lambada_openai.
struct LambadaEvaluation {
  RunningMean accuracy;         // 1 where every token of the continuation was the likeliest
  RunningMean log_probability;  // of a continuation, in nats: its tokens' together
  int64_t tokens = 0;           // of the continuations

  double perplexity() const;        // by continuation, not by token
  double perplexity_error() const;  // standard error, to first order
};

// Called after each example, in order, with what has been found up to and with it.
using LambadaObserver = std::function<void(const LambadaEvaluation& so_far)>;

// Throws Error naming the example, counted from 1, whose context or continuation has no tokens.
LambadaEvaluation evaluate_lambada(const LanguageModel& model, const Tokenizer& tokenizer,
                                   std::span<const Continuation> examples, int64_t batch_tokens,
                                   const LambadaObserver& observe);

}  // namespace elapse

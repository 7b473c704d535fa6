// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "elapse/eval/scorer.h"
#include "elapse/generate/session.h"
#include "tests/generate/tiny_model.h"

namespace elapse {

// A small random model whose vocabulary of 16 is not padded, so that a session's logits are all.
// Its head is its own: a tied one foresees above all the token just read.
inline ModelConfig eval_config() {
  ModelConfig config = tiny_config();
  config.vocab_size = 16;
  config.tied_head = false;
  return config;
}

// What a Scorer should find for a sequence, one session step after the other.
inline std::vector<TokenScore> scores_one_by_one(const LanguageModel& model,
                                                 const std::vector<int64_t>& tokens, int64_t first,
                                                 int64_t sequence = 0) {
  std::vector<TokenScore> scores;
  Session session(model);
  const auto size = static_cast<int64_t>(tokens.size());
  for (int64_t t = 1; t < size; ++t) {
    session.step(tokens[static_cast<size_t>(t - 1)]);
    if (t < first) continue;
    const auto logits = session.logits();
    const int64_t token = tokens[static_cast<size_t>(t)];
    double sum = 0;
    for (double l : logits) sum += std::exp(l);
    scores.push_back({.sequence = sequence,
                      .position = t,
                      .token = token,
                      .log_probability = logits[static_cast<size_t>(token)] - std::log(sum),
                      .likeliest = std::ranges::max_element(logits) - logits.begin() == token,
                      .last = t + 1 == size});
  }
  return scores;
}

// Of a log-probability: every addend of every sum rounds once, in each layer and over the tokens,
// relative to values of about one; twice, for the logit and for the sum over all.
inline double score_tolerance(const LanguageModel& model, int64_t tokens) {
  const double epsilon = model.dtype() == DType::f64 ? std::numeric_limits<double>::epsilon()
                                                     : std::numeric_limits<float>::epsilon();
  const ModelConfig& c = model.config();
  return 2 * epsilon * static_cast<double>(c.n_layers * (c.d_inner + c.d_model) + tokens);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/token_source.h"
#include "elapse/model/language_model.h"

namespace elapse {

// How well a model predicts what it was not trained on.
struct Evaluation {
  double loss = 0;      // mean over the targets, nats
  double accuracy = 0;  // part of the targets whose logit is the largest
  int64_t targets = 0;
  int64_t length = 0;  // of the sequences
};

// Over all of the source's held-out examples in sequences of at most `length` tokens, each from an
// empty state.
Evaluation evaluate(const LanguageModel& model, const TokenSource& source, int64_t length);

}  // namespace elapse

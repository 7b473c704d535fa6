// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>

#include "elapse/data/token_source.h"
#include "elapse/model/language_model.h"

namespace elapse {

// Of the first `sequences` held-out sequences of `length` tokens of a task whose last tokens alone
// ask, how many the model answers right (the answer's logit is the largest). Sequences go by in
// chunks from state to state, several at a time, so that activations do not grow with length.
// `progress` hears the share done, 0 to 1; it may throw to stop.
int64_t count_recalled(const LanguageModel& model, const TokenSource& task, int64_t length,
                       int64_t sequences, const std::function<void(double)>& progress);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "elapse/model/language_model.h"

namespace elapse {

// What a model makes of random tokens that come twice: `length` of them, then the same again
// (Olsson et al., 2022). A model with induction foresees the second half.
struct RepetitionScores {
  int64_t length = 0, sequences = 0;
  std::vector<double> nats;  // (2 length - 1): mean loss of token t + 1 after t
  double first_half = 0;     // mean nats of the tokens that are new, the first left out
  double second_half = 0;    // of those that were there before and have a predecessor that was
  double in_context = 0;     // second_half - first_half: below 0, the context helps
  // By layer, how much of the hidden attention (mean of sizes over the channels, each query's row
  // summing to 1) of a second-half token rests on the token after its first occurrence. Uniform
  // attention would give about `by_chance`. Empty of recurrent mixers.
  std::vector<double> prefix_matching;
  double by_chance = 0;
};

// Tokens are drawn from all classes. Hidden attention takes time in length^2.
RepetitionScores repetition_scores(
    const LanguageModel& model, int64_t length, int64_t sequences, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress = [](int64_t, int64_t) {});

}  // namespace elapse

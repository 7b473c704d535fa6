// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/data/ioi.h"
#include "elapse/experiments/progress.h"
#include "elapse/interpret/metrics.h"

namespace elapse {

// A prompt that asks for the same answer, in other words.
struct IoiAttack {
  IoiPrompt prompt;
  int64_t name_again = -1;  // that stands once more in a sentence between the clauses; -1: none
  double difference = 0;    // the model's logit(indirect object) - logit(subject)

  std::vector<int64_t> tokens(const IoiTask& task) const;
};

// From each prompt on, the change of one thing (template, order of the names, place, object, name
// that stands again) that lowers the logit difference most is made, until none does. One
// attack a prompt, the most wrong first.
std::vector<IoiAttack> search_attacks(const LanguageModel& model, const IoiTask& task,
                                      const std::vector<IoiPrompt>& prompts,
                                      const OnExperimentProgress& progress);

}  // namespace elapse

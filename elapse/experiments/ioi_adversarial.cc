// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ioi_adversarial.h"

#include <algorithm>

namespace elapse {
namespace {

std::vector<IoiAttack> neighbours(const IoiTask& task, const IoiAttack& from) {
  std::vector<IoiAttack> list;
  for (IoiPrompt& prompt : task.neighbours(from.prompt)) {
    list.push_back({std::move(prompt), from.name_again});
  }
  for (const int64_t name : {int64_t{-1}, from.prompt.indirect, from.prompt.subject}) {
    if (name != from.name_again) list.push_back({from.prompt, name});
  }
  return list;
}

void measure(const LanguageModel& model, const IoiTask& task, std::vector<IoiAttack>& attacks) {
  TokenLists tokens;
  std::vector<Answer> answers;
  for (const IoiAttack& attack : attacks) {
    tokens.push_back(attack.tokens(task));
    answers.push_back({attack.prompt.indirect, attack.prompt.subject});
  }
  const std::vector<double> differences =
      logit_differences(last_logits(model, pack(model, tokens)), answers);
  for (size_t i = 0; i < attacks.size(); ++i) attacks[i].difference = differences[i];
}

}  // namespace

std::vector<int64_t> IoiAttack::tokens(const IoiTask& task) const {
  return name_again < 0 ? prompt.tokens : task.with_name_again(prompt, name_again);
}

std::vector<IoiAttack> search_attacks(const LanguageModel& model, const IoiTask& task,
                                      const std::vector<IoiPrompt>& prompts,
                                      const OnExperimentProgress& progress) {
  std::vector<IoiAttack> found;
  for (const IoiPrompt& prompt : prompts) found.push_back({prompt});
  measure(model, task, found);
  const auto by_difference = [](const IoiAttack& a, const IoiAttack& b) {
    return a.difference < b.difference;
  };
  for (size_t i = 0; i < found.size(); ++i) {
    for (bool lowered = true; lowered;) {
      std::vector<IoiAttack> tried = neighbours(task, found[i]);
      measure(model, task, tried);
      const auto worst = std::min_element(tried.begin(), tried.end(), by_difference);
      lowered = worst->difference < found[i].difference;
      if (lowered) found[i] = *worst;
    }
    progress({"attack", static_cast<int64_t>(i) + 1, std::ssize(found), ""});
  }
  std::stable_sort(found.begin(), found.end(), by_difference);
  return found;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/induction.h"

#include "elapse/core/error.h"

namespace elapse {

InductionTask::InductionTask(uint64_t seed, Loss loss, int64_t n_ordinary)
    : DrawnTask(seed), loss_(loss), n_ordinary_(n_ordinary) {
  ELAPSE_CHECK(n_ordinary == 14 || n_ordinary == 15,
               "induction task: expected 14 or 15 ordinary tokens, found {}", n_ordinary);
}

std::string InductionTask::description() const {
  return fmt::format("induction heads, {} ordinary tokens, loss on {}, seed {}", n_ordinary_,
                     loss_ == Loss::last_token ? "the last token" : "all tokens", seed());
}

void InductionTask::check_length(int64_t length) const {
  ELAPSE_CHECK(
      length >= kMinLength,
      "induction task: expected a length of at least {} (prefix, answer, prefix), found {}",
      kMinLength, length);
}

int64_t InductionTask::append_sequence(Random random, int64_t length,
                                       std::vector<int64_t>& tokens) const {
  const auto begin = static_cast<int64_t>(tokens.size());
  const int64_t prefix = begin + random.below(length - 2);
  for (int64_t i = 0; i < length; ++i) tokens.push_back(random.below(n_ordinary_));
  tokens[static_cast<size_t>(prefix)] = kPrefix;
  tokens.back() = kPrefix;
  return tokens[static_cast<size_t>(prefix + 1)];
}

void InductionTask::append_example(Random random, Draw draw, int64_t length,
                                   TokenBatch& batch) const {
  const size_t begin = batch.tokens.size();
  const int64_t answer = append_sequence(random, length, batch.tokens);
  batch.lengths.push_back(length);
  if (draw == Draw::held_out || loss_ == Loss::last_token) {
    batch.logit_rows.push_back(static_cast<int64_t>(batch.tokens.size()) - 1);
  } else {
    const auto second = batch.tokens.begin() + static_cast<int64_t>(begin) + 1;
    batch.targets.insert(batch.targets.end(), second, batch.tokens.end());
  }
  batch.targets.push_back(answer);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/stretches.h"

#include <algorithm>

namespace elapse {
namespace {

// What each packed token is to predict, or kMaskedTarget.
std::vector<int64_t> target_of_each(const TokenBatch& batch) {
  if (batch.logit_rows.empty()) return batch.targets;
  std::vector<int64_t> targets(batch.tokens.size(), kMaskedTarget);
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
    targets[static_cast<size_t>(batch.logit_rows[i])] = batch.targets[i];
  }
  return targets;
}

// Adds tokens [begin, end) of the whole batch, which are of one sequence.
void append(Stretch& stretch, const TokenBatch& batch, const std::vector<int64_t>& targets,
            int64_t begin, int64_t end) {
  TokenBatch& into = stretch.batch;
  into.lengths.push_back(end - begin);
  for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); ++t) {
    if (targets[t] != kMaskedTarget) {
      into.logit_rows.push_back(std::ssize(into.tokens));
      into.targets.push_back(targets[t]);
    }
    into.tokens.push_back(batch.tokens[t]);
  }
}

}  // namespace

std::vector<Stretch> stretches_of(const TokenBatch& batch, int64_t tokens) {
  const std::vector<int64_t> targets = target_of_each(batch);
  const int64_t longest = *std::max_element(batch.lengths.begin(), batch.lengths.end());
  std::vector<Stretch> stretches(static_cast<size_t>((longest + tokens - 1) / tokens));
  int64_t first = 0;
  for (int64_t s = 0; s < std::ssize(batch.lengths); ++s) {
    const int64_t length = batch.lengths[static_cast<size_t>(s)];
    for (int64_t begin = 0; begin < length; begin += tokens) {
      Stretch& stretch = stretches[static_cast<size_t>(begin / tokens)];
      stretch.sequences.push_back(s);
      append(stretch, batch, targets, first + begin, first + std::min(begin + tokens, length));
    }
    first += length;
  }
  for (Stretch& stretch : stretches) {
    if (!stretch.batch.logit_rows.empty()) continue;  // none would stand for all
    stretch.batch.logit_rows.push_back(0);
    stretch.batch.targets.push_back(kMaskedTarget);
  }
  return stretches;
}

}  // namespace elapse

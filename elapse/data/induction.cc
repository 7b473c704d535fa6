// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/induction.h"

#include <algorithm>

#include "elapse/core/error.h"
#include "elapse/data/streams.h"

namespace elapse {
namespace {

constexpr int64_t kHeldOutTokens = 8192;  // of a batch, unless one sequence is longer

int64_t held_out_sequences_a_batch(int64_t length) {
  return std::clamp<int64_t>(kHeldOutTokens / length, 1, InductionTask::kHeldOutSequences);
}

}  // namespace

InductionTask::InductionTask(uint64_t seed, Loss loss, int64_t n_ordinary)
    : seed_(seed), loss_(loss), n_ordinary_(n_ordinary) {
  ELAPSE_CHECK(n_ordinary == 14 || n_ordinary == 15,
               "induction task: expected 14 or 15 ordinary tokens, found {}", n_ordinary);
}

std::string InductionTask::description() const {
  return fmt::format("induction heads, {} ordinary tokens, loss on {}, seed {}", n_ordinary_,
                     loss_ == Loss::last_token ? "the last token" : "all tokens", seed_);
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

void InductionTask::append_example(Random random, int64_t length, Loss loss,
                                   TokenBatch& batch) const {
  const size_t begin = batch.tokens.size();
  const int64_t answer = append_sequence(random, length, batch.tokens);
  batch.lengths.push_back(length);
  if (loss == Loss::last_token) {
    batch.logit_rows.push_back(static_cast<int64_t>(batch.tokens.size()) - 1);
  } else {
    const auto second = batch.tokens.begin() + static_cast<int64_t>(begin) + 1;
    batch.targets.insert(batch.targets.end(), second, batch.tokens.end());
  }
  batch.targets.push_back(answer);
}

TokenBatch InductionTask::training_batch(int64_t step, int64_t first, int64_t count,
                                         int64_t length) const {
  TokenBatch batch;
  for (int64_t i = first; i < first + count; ++i) {
    append_example(sequence_random(seed_, Draw::training, step, i), length, loss_, batch);
  }
  return batch;
}

int64_t InductionTask::held_out_batches(int64_t length) const {
  check_length(length);
  const int64_t per_batch = held_out_sequences_a_batch(length);
  return (kHeldOutSequences + per_batch - 1) / per_batch;
}

TokenBatch InductionTask::held_out_batch(int64_t index, int64_t length) const {
  const int64_t per_batch = held_out_sequences_a_batch(length);
  const int64_t begin = index * per_batch;
  TokenBatch batch;
  for (int64_t i = begin; i < std::min(begin + per_batch, kHeldOutSequences); ++i) {
    append_example(sequence_random(seed_, Draw::held_out, 0, i), length, Loss::last_token, batch);
  }
  return batch;
}

}  // namespace elapse

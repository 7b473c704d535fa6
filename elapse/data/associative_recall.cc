// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/associative_recall.h"

#include "elapse/core/error.h"

namespace elapse {

AssociativeRecallTask::AssociativeRecallTask(uint64_t seed, int64_t keys)
    : DrawnTask(seed), keys_(keys) {
  ELAPSE_CHECK(keys >= 1, "associative recall: expected at least 1 key, found {}", keys);
}

std::string AssociativeRecallTask::description() const {
  return fmt::format("associative recall, {} keys, seed {}", keys_, seed());
}

void AssociativeRecallTask::check_length(int64_t length) const {
  ELAPSE_CHECK(length >= 4 && length % 2 == 0,
               "associative recall: expected an even length of at least 4 (key, value, prefix, "
               "key), found {}",
               length);
}

void AssociativeRecallTask::append_example(Random random, Draw /*draw*/, int64_t length,
                                           TokenBatch& batch) const {
  std::vector<int64_t> value_of(static_cast<size_t>(keys_));
  for (int64_t& value : value_of) value = keys_ + random.below(keys_);
  const auto begin = static_cast<int64_t>(batch.tokens.size());
  const int64_t pairs = (length - 2) / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t key = random.below(keys_);
    batch.tokens.push_back(key);
    batch.tokens.push_back(value_of[static_cast<size_t>(key)]);
  }
  const int64_t asked = batch.tokens[static_cast<size_t>(begin + 2 * random.below(pairs))];
  batch.tokens.push_back(prefix());
  batch.tokens.push_back(asked);
  batch.logit_rows.push_back(begin + length - 1);
  batch.targets.push_back(value_of[static_cast<size_t>(asked)]);
  batch.lengths.push_back(length);
}

}  // namespace elapse

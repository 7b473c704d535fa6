// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/selective_copying.h"

#include "elapse/core/error.h"

namespace elapse {

SelectiveCopyingTask::SelectiveCopyingTask(uint64_t seed, int64_t data_tokens, int64_t vocab_size)
    : DrawnTask(seed), data_tokens_(data_tokens), vocab_size_(vocab_size) {
  ELAPSE_CHECK(data_tokens >= 1, "selective copying: expected at least 1 data token, found {}",
               data_tokens);
  ELAPSE_CHECK(
      vocab_size >= 3,
      "selective copying: expected a vocabulary of at least 3 (noise, data, marker), found "
      "{}",
      vocab_size);
}

std::string SelectiveCopyingTask::description() const {
  return fmt::format("selective copying, {} data tokens, vocabulary {}, seed {}", data_tokens_,
                     vocab_size_, seed());
}

void SelectiveCopyingTask::check_length(int64_t length) const {
  ELAPSE_CHECK(length >= 2 * data_tokens_,
               "selective copying: expected a length of at least {} ({} data tokens and as many "
               "markers), found {}",
               2 * data_tokens_, data_tokens_, length);
}

void SelectiveCopyingTask::append_example(Random random, Draw /*draw*/, int64_t length,
                                          TokenBatch& batch) const {
  // Place after place is chosen with the probability that makes all choices equally likely (Knuth,
  // The Art of Computer Programming, 3.4.2, Algorithm S).
  int64_t left = data_tokens_;
  for (int64_t places = length - data_tokens_; places > 0; --places) {
    const bool chosen = random.below(places) < left;
    batch.tokens.push_back(chosen ? 1 + random.below(vocab_size_ - 2) : kNoise);
    if (!chosen) continue;
    batch.targets.push_back(batch.tokens.back());
    --left;
  }
  for (int64_t i = 0; i < data_tokens_; ++i) {
    batch.logit_rows.push_back(static_cast<int64_t>(batch.tokens.size()));
    batch.tokens.push_back(marker());
  }
  batch.lengths.push_back(length);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/drawn_task.h"

namespace elapse {

// Selective copying (Jing et al., 2019, as "denoising"; Gu and Dao, 2023, section 4.1.1): remember
// some tokens that stand anywhere among noise, and say them again in order.
//
// A sequence of `length` tokens from a vocabulary of `vocab_size`: the first length - data_tokens
// are noise, token 0, but for `data_tokens` places, drawn uniformly among all such choices, whose
// tokens are uniform over 1 .. vocab_size - 2; the last data_tokens are all the marker
// vocab_size - 1. The i-th marker's target is the i-th of the data tokens; nothing else is a
// target. Published: length 4096, 16 tokens to remember, a vocabulary of 16. (state-spaces/s4,
// copying.py, draws so; whether the published 4096 counts the markers is not said, here it does.)
class SelectiveCopyingTask final : public DrawnTask {
 public:
  static constexpr int64_t kNoise = 0;

  // Throws Error unless data_tokens >= 1 and vocab_size >= 3.
  explicit SelectiveCopyingTask(uint64_t seed, int64_t data_tokens = 16, int64_t vocab_size = 16);

  int64_t marker() const { return vocab_size_ - 1; }

  int64_t vocab_size() const override { return vocab_size_; }
  std::string description() const override;
  void check_length(int64_t length) const override;

 private:
  void append_example(Random random, Draw draw, int64_t length, TokenBatch& batch) const override;

  int64_t data_tokens_;
  int64_t vocab_size_;
};

}  // namespace elapse

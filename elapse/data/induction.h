// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/drawn_task.h"

namespace elapse {

// The induction-heads task (Gu and Dao, 2023, section 4.1.2 and appendix E.1): recall what followed
// a special token the one time it occurred.
//
// A sequence of `length` tokens from a vocabulary of 16: ordinary tokens, each uniform over
// 0 .. n_ordinary - 1, but for the prefix token 15 at two places: at one drawn uniformly from
// 0 .. length - 3, and last. The target of the last token is the ordinary token that stands after
// the first prefix. Token 14 is ordinary if n_ordinary is 15; with 14, as in the code the task
// stems from (HazyResearch/safari, synthetics.py: two of the 16 are special), it never occurs.
// Held-out sequences have the answer as the only target.
class InductionTask final : public DrawnTask {
 public:
  enum class Loss : uint8_t {
    last_token,  // the answer alone
    all_tokens,  // the answer, and of every other token the one that follows it
  };
  static constexpr int64_t kVocabSize = 16;
  static constexpr int64_t kPrefix = 15;
  static constexpr int64_t kMinLength = 3;

  // Throws Error unless n_ordinary is 14 or 15.
  InductionTask(uint64_t seed, Loss loss, int64_t n_ordinary = 14);

  int64_t vocab_size() const override { return kVocabSize; }
  std::string description() const override;
  void check_length(int64_t length) const override;

 private:
  void append_example(Random random, Draw draw, int64_t length, TokenBatch& batch) const override;
  // Returns the answer.
  int64_t append_sequence(Random random, int64_t length, std::vector<int64_t>& tokens) const;

  Loss loss_;
  int64_t n_ordinary_;
};

}  // namespace elapse

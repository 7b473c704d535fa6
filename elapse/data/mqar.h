// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/drawn_task.h"

namespace elapse {

// Multi-query associative recall (Arora, Eyuboglu et al., 2023, "Zoology", and its code,
// HazyResearch/zoology, multiquery_ar.py): after pairs of keys and values every key comes once
// more, somewhere, and its value is to be said.
//
// A sequence of an even `length`: `pairs` pairs key, value, the keys all different and from
// 1 .. vocab_size / 2 - 1, the values all different and from vocab_size / 2 .. vocab_size - 1, both
// uniform; then token 0, but for the keys, each at an even distance 2 g from the last pair. The
// places g, 0 .. (length - 2 pairs) / 2 - 1, are drawn for one pair after the other among those
// that are left, with probabilities proportional to (g + 1)^(kPower - 1). A key's target, where it
// comes again, is its value; nothing else is a target. As in the configuration of the published
// figure the rest is token 0 (the code can put tokens drawn at random there).
class MqarTask final : public DrawnTask {
 public:
  static constexpr double kPower = 0.01;

  // Throws Error unless pairs >= 1 and half the vocabulary has more than `pairs` tokens.
  explicit MqarTask(uint64_t seed, int64_t pairs = 8, int64_t vocab_size = 8192);

  int64_t pairs() const { return pairs_; }

  int64_t vocab_size() const override { return vocab_size_; }
  std::string description() const override;
  void check_length(int64_t length) const override;

 private:
  void append_example(Random random, Draw draw, int64_t length, TokenBatch& batch) const override;

  int64_t pairs_;
  int64_t vocab_size_;
};

}  // namespace elapse

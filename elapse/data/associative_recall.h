// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/drawn_task.h"

namespace elapse {

// Associative recall (Ba et al., 2016, section 4.1; Dao, Fu, Saab et al., 2023, "H3", section 3.1):
// after pairs of keys and values, say the value of the key that is asked for.
//
// A sequence of an even `length`: (length - 2) / 2 pairs key, value; the prefix; a key. Each pair's
// key is uniform over the tokens 0 .. keys - 1. A key that comes again has the same value, which is
// drawn for each sequence, uniform over keys .. 2 keys - 1. The prefix is token 2 keys. The key at
// the end is that of a pair drawn uniformly; its target is the pair's value, and the only target.
// (HazyResearch/safari, synthetics.py; it can ask for a key that does not occur, this cannot.)
class AssociativeRecallTask final : public DrawnTask {
 public:
  // Throws Error unless keys >= 1.
  explicit AssociativeRecallTask(uint64_t seed, int64_t keys = 10);

  int64_t prefix() const { return 2 * keys_; }

  int64_t vocab_size() const override { return 2 * keys_ + 1; }
  std::string description() const override;
  void check_length(int64_t length) const override;

 private:
  void append_example(Random random, Draw draw, int64_t length, TokenBatch& batch) const override;

  int64_t keys_;
};

}  // namespace elapse

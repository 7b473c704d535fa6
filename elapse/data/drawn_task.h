// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/streams.h"
#include "elapse/data/token_source.h"

namespace elapse {

// A synthetic task, each of whose sequences is drawn afresh from random numbers of its own.
class DrawnTask : public TokenSource {
 public:
  static constexpr int64_t kHeldOutSequences = 512;

  TokenBatch training_batch(int64_t step, int64_t first, int64_t count, int64_t length) const final;
  // kHeldOutSequences sequences of exactly `length`.
  int64_t held_out_batches(int64_t length) const final;
  TokenBatch held_out_batch(int64_t index, int64_t length) const final;

 protected:
  explicit DrawnTask(uint64_t seed) : seed_(seed) {}
  uint64_t seed() const { return seed_; }

  // One more sequence, of a length that check_length() takes.
  virtual void append_example(Random random, Draw draw, int64_t length,
                              TokenBatch& batch) const = 0;

 private:
  uint64_t seed_;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace elapse {

// A target that does not count (the value cross entropy skips).
inline constexpr int64_t kMaskedTarget = -100;

// Packed sequences with what is to be predicted, on the host.
struct TokenBatch {
  std::vector<int64_t> tokens;      // (tokens)
  std::vector<int64_t> lengths;     // (n_seqs), their sum is tokens
  std::vector<int64_t> logit_rows;  // (rows): packed tokens that predict; empty: every token does
  std::vector<int64_t> targets;     // (rows): what each is to predict, or kMaskedTarget

  int64_t counted_targets() const;  // those that are not masked
};

// Where a model's examples come from. Everything is a function of the source's seed and the
// arguments alone, so that to resume a run is to know its step, and a step cut into several passes
// has the same sequences as one that is not.
class TokenSource {
 public:
  virtual ~TokenSource() = default;

  virtual int64_t vocab_size() const = 0;
  // What the examples are drawn from, as far as it decides them: "text of 1115394 bytes, ...".
  // Equal for sources that give equal batches.
  virtual std::string description() const = 0;
  // Throws Error naming the source if it cannot give training sequences of `length` tokens.
  virtual void check_length(int64_t length) const = 0;

  // Sequences [first, first + count) of a training step, each of `length` tokens.
  virtual TokenBatch training_batch(int64_t step, int64_t first, int64_t count,
                                    int64_t length) const = 0;

  // The held-out examples, in sequences of at most `length` tokens: batches [0, held_out_batches).
  virtual int64_t held_out_batches(int64_t length) const = 0;
  virtual TokenBatch held_out_batch(int64_t index, int64_t length) const = 0;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "elapse/ops/sample.h"

namespace elapse {

// As Sampling (elapse/ops/sample.h), and more.
struct SamplerOptions {
  double temperature = 1;  // 0: the likeliest token, always
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off
  uint64_t seed = 0;
};

// Chooses the next token (elapse/ops/sample.h says how).
//
// The draw for a position is a function of the seed and the position: a text continued from a saved
// or forked state is the text that would have been, and there is no generator to save.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options = {});  // Error for options out of range

  bool is_greedy() const { return options_.temperature == 0; }

  // `position`: tokens before the one chosen. A logit of -inf is never chosen. Throws Error for
  // logits that are NaN, +inf or all -inf.
  int64_t sample(std::span<const double> logits, int64_t position) const;

  // What sample() draws from, in the order of tokens, and the number in [0, 1) that it draws with.
  std::vector<Candidate> candidates(std::span<const double> logits) const;
  double uniform(int64_t position) const;
  Sampling sampling() const;  // of one that is not greedy

 private:
  SamplerOptions options_;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace elapse {

// As llama.cpp and transformers name them. The defaults leave the model's distribution as it is.
struct SamplerOptions {
  double temperature = 1;  // 0: the likeliest token, always
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off
  uint64_t seed = 0;
};

struct Candidate {
  int64_t token;
  double weight;  // its probability, up to a factor common to all
};

// Chooses the next token. In llama.cpp's order: the top_k likeliest tokens are kept; of these, the
// fewest likeliest whose probabilities reach top_p (Holtzman et al., 2019); of these, those at
// least min_p times as likely as the likeliest (Nguyen et al., 2024); one of these is drawn with
// probability proportional to exp(logit / temperature). At least one token is always kept; of
// equally likely tokens those of lower number come first.
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

  // What sample() draws from.
  std::vector<Candidate> candidates(std::span<const double> logits) const;

 private:
  SamplerOptions options_;
};

}  // namespace elapse

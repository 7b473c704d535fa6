// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <vector>

#include "elapse/ops/device.h"

namespace elapse {

// What tokens are drawn from, as llama.cpp and transformers name it, in llama.cpp's order: the
// top_k likeliest tokens are kept; of these, the fewest likeliest whose probabilities reach top_p
// (Holtzman et al., 2019); of these, those at least min_p times as likely as the likeliest (Nguyen
// et al., 2024); one of these is drawn with probability proportional to exp(logit / temperature).
// At least one token is always kept; of equally likely tokens those of lower number come first. The
// defaults leave the model's distribution as it is.
struct Sampling {
  double temperature = 1;  // above 0
  int64_t top_k = 0;       // 0 or more; 0: off
  double top_p = 1;        // from 0 to 1; 1: off
  double min_p = 0;        // from 0 to 1; 0: off
};

struct Candidate {
  int64_t token;
  double weight;  // its probability, up to a factor common to all
};

// Those that are kept, in the order of tokens. `likeliest` is one of the greatest finite logits;
// none is NaN or +inf, and one of -inf is no candidate.
std::vector<Candidate> candidates(std::span<const double> logits, int64_t likeliest,
                                  const Sampling& how);
// The first whose weight, added to those before it, exceeds `uniform`, in [0, 1), of them all.
int64_t draw(std::span<const Candidate> candidates, double uniform);

// A token of each row, of at most 2^19 classes, so drawn. -1 as of Likeliest. Where weights are
// float32 they and what is summed of them are within 1e-6 of the whole, and so the token may be
// another where the number that is drawn falls that close to the border between two.
struct Sample {
  static constexpr Op kOp = Op::sample;
  Tensor logits;   // (rows, classes)
  Tensor uniform;  // (rows) f64, in [0, 1)
  Sampling how;
  Tensor index;  // (rows) i64, assigned
};

void sample(Device& device, const Sample& args);

}  // namespace elapse

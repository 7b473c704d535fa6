// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/data/token_source.h"

namespace elapse {

// Some tokens, one after the other, of each of a batch's sequences that has them.
struct Stretch {
  TokenBatch batch;
  std::vector<int64_t> sequences;  // (n_seqs): which of the whole batch's each is part of
};

// A batch cut into stretches of `tokens` tokens of each sequence, to be run in this order with the
// state of each sequence carried on. What the whole batch counts, they count together.
std::vector<Stretch> stretches_of(const TokenBatch& batch, int64_t tokens);

}  // namespace elapse

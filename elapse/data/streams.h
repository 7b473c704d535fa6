// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/core/random.h"

namespace elapse {

// Who draws from a seed. A model's initialisation has stream 0.
enum class Draw : uint64_t { training = 1, held_out = 2 };

// The random numbers of one sequence: no other draw, step or sequence of the seed shares them, as
// long as steps stay below 2^32 and a step's sequences below 2^24.
inline Random sequence_random(uint64_t seed, Draw draw, int64_t step, int64_t sequence) {
  return Random(seed, static_cast<uint64_t>(draw) << 56 | static_cast<uint64_t>(step) << 24 |
                          static_cast<uint64_t>(sequence));
}

}  // namespace elapse

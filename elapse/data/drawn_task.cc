// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/drawn_task.h"

#include <algorithm>

namespace elapse {
namespace {

constexpr int64_t kHeldOutTokens = 8192;  // of a batch, unless one sequence is longer

int64_t held_out_sequences_a_batch(int64_t length) {
  return std::clamp<int64_t>(kHeldOutTokens / length, 1, DrawnTask::kHeldOutSequences);
}

}  // namespace

TokenBatch DrawnTask::training_batch(int64_t step, int64_t first, int64_t count,
                                     int64_t length) const {
  TokenBatch batch;
  for (int64_t i = first; i < first + count; ++i) {
    append_example(sequence_random(seed_, Draw::training, step, i), Draw::training, length, batch);
  }
  return batch;
}

int64_t DrawnTask::held_out_batches(int64_t length) const {
  check_length(length);
  const int64_t per_batch = held_out_sequences_a_batch(length);
  return (kHeldOutSequences + per_batch - 1) / per_batch;
}

TokenBatch DrawnTask::held_out_batch(int64_t index, int64_t length) const {
  const int64_t per_batch = held_out_sequences_a_batch(length);
  const int64_t begin = index * per_batch;
  TokenBatch batch;
  for (int64_t i = begin; i < std::min(begin + per_batch, kHeldOutSequences); ++i) {
    append_example(sequence_random(seed_, Draw::held_out, 0, i), Draw::held_out, length, batch);
  }
  return batch;
}

}  // namespace elapse

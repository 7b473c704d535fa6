// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/model/language_model.h"

namespace elapse {

using TokenLists = std::vector<std::vector<int64_t>>;

// Sequences packed in one batch, each from an empty state, asked for the logits after its last
// token. Throws Error for an empty sequence and tokens that are no classes of the model.
Batch pack(const LanguageModel& model, const TokenLists& sequences);

// Elements in float64 on the host, in the order of a contiguous tensor.
std::vector<double> host_values(Device& device, const Tensor& t);

// Logits after the last token of each sequence: (sequences, vocab_size), the classes that only pad
// left out.
struct LastLogits {
  int64_t sequences = 0, classes = 0;
  std::vector<double> values;

  double operator()(int64_t sequence, int64_t token) const {
    return values[static_cast<size_t>(sequence * classes + token)];
  }
};
LastLogits last_logits(const LanguageModel& model, const Tensor& logits /* (sequences, vocab) */);
LastLogits last_logits(const LanguageModel& model, const Batch& batch);

}  // namespace elapse

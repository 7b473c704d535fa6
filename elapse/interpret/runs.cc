// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/runs.h"

namespace elapse {

Batch pack(const LanguageModel& model, const TokenLists& sequences) {
  Device& device = model.device();
  const int64_t classes = model.config().vocab_size;
  std::vector<int64_t> tokens, lengths, last;
  for (size_t s = 0; s < sequences.size(); ++s) {
    ELAPSE_CHECK(!sequences[s].empty(), "sequence {}: expected at least one token, found none", s);
    for (const int64_t token : sequences[s]) {
      ELAPSE_CHECK(token >= 0 && token < classes,
                   "sequence {}: token {} is no class of the model, which has {}", s, token,
                   classes);
    }
    tokens.insert(tokens.end(), sequences[s].begin(), sequences[s].end());
    lengths.push_back(std::ssize(sequences[s]));
    last.push_back(std::ssize(tokens) - 1);
  }
  return {device.upload(tokens, {std::ssize(tokens)}), make_sequences(device, lengths),
          device.upload(last, {std::ssize(last)})};
}

std::vector<double> host_values(Device& device, const Tensor& t) {
  Tensor whole = t;
  if (!t.is_contiguous() || t.dtype() != DType::f64) {
    whole = device.empty(DType::f64, t.shape());
    copy(device, {t, whole});
  }
  std::vector<double> values(static_cast<size_t>(t.numel()));
  device.download_bytes(whole, values.data());
  return values;
}

LastLogits last_logits(const LanguageModel& model, const Tensor& logits) {
  const int64_t classes = model.config().vocab_size;
  return {logits.dim(0), classes, host_values(model.device(), logits.columns(0, classes))};
}

LastLogits last_logits(const LanguageModel& model, const Batch& batch) {
  Tape tape(model.device(), false);
  return last_logits(model, model.forward(tape, batch).value());
}

}  // namespace elapse

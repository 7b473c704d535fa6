// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/evaluation.h"

#include <algorithm>

#include "elapse/model/checkpoint.h"
#include "elapse/train/predict.h"

namespace elapse {
namespace {

template <class T>
int64_t count_correct(const Tensor& logits, const std::vector<int64_t>& targets) {
  const T* row = logits.data<T>();
  int64_t correct = 0;
  for (size_t i = 0; i < targets.size(); ++i, row += logits.dim(1)) {
    correct += std::max_element(row, row + logits.dim(1)) - row == targets[i];
  }
  return correct;
}

int64_t count_correct(Device& device, const Tensor& logits, const std::vector<int64_t>& targets) {
  const Tensor host = to_host(device, logits);
  return host.dtype() == DType::f32 ? count_correct<float>(host, targets)
                                    : count_correct<double>(host, targets);
}

}  // namespace

Evaluation evaluate(const LanguageModel& model, const TokenSource& source, int64_t length) {
  Device& device = model.device();
  Evaluation total;
  total.length = length;
  int64_t correct = 0;
  for (int64_t i = 0; i < source.held_out_batches(length); ++i) {
    const TokenBatch batch = source.held_out_batch(i, length);
    Tape tape(device, false);
    const Prediction prediction = predict(tape, model, batch);
    const int64_t targets = batch.counted_targets();
    total.loss += scalar(device, prediction.loss.value()) * static_cast<double>(targets);
    correct += count_correct(device, prediction.logits.value(), batch.targets);
    total.targets += targets;
  }
  total.loss /= static_cast<double>(total.targets);
  total.accuracy = static_cast<double>(correct) / static_cast<double>(total.targets);
  return total;
}

}  // namespace elapse

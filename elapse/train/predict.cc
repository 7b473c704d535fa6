// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/predict.h"

namespace elapse {
namespace {

static_assert(kMaskedTarget == kIgnoredTarget);

Tensor upload(Device& device, const std::vector<int64_t>& values) {
  return device.upload(values, {static_cast<int64_t>(values.size())});
}

}  // namespace

Prediction predict(Tape& tape, const LanguageModel& model, const TokenBatch& batch,
                   Points* points) {
  Device& device = model.device();
  Batch input = {upload(device, batch.tokens), make_sequences(device, batch.lengths), {}};
  if (!batch.logit_rows.empty()) input.logit_rows = upload(device, batch.logit_rows);
  const Var logits = model.forward(tape, input, nullptr, points);
  return {logits, cross_entropy(tape, logits, upload(device, batch.targets))};
}

double scalar(Device& device, const Tensor& t) {
  if (t.dtype() == DType::f32) {
    float value = 0;
    device.download_bytes(t, &value);
    return static_cast<double>(value);
  }
  double value = 0;
  device.download_bytes(t, &value);
  return value;
}

}  // namespace elapse

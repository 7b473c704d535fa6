// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/predict.h"

namespace elapse {
namespace {

static_assert(kMaskedTarget == kIgnoredTarget);

Tensor upload(Device& device, const std::vector<int64_t>& values) {
  return device.upload(values, {static_cast<int64_t>(values.size())});
}

Batch on_device(Device& device, const TokenBatch& batch, Sequences sequences) {
  Batch input = {upload(device, batch.tokens), std::move(sequences), {}};
  if (!batch.logit_rows.empty()) input.logit_rows = upload(device, batch.logit_rows);
  return input;
}

Batch on_device(Device& device, const TokenBatch& batch) {
  return on_device(device, batch, make_sequences(device, batch.lengths));
}

}  // namespace

Prediction predict(Tape& tape, const LanguageModel& model, const TokenBatch& batch,
                   Points* points) {
  Device& device = model.device();
  const Var logits = model.forward(tape, on_device(device, batch), nullptr, points);
  return {logits, cross_entropy(tape, logits, upload(device, batch.targets))};
}

Var predict_loss(Tape& tape, const LanguageModel& model, const TokenBatch& batch) {
  Device& device = model.device();
  return model.loss(tape, on_device(device, batch), upload(device, batch.targets));
}

Var predict_loss(Tape& tape, const LanguageModel& model, const Stretch& stretch, State& state) {
  Device& device = model.device();
  const std::vector<int64_t>& slots = stretch.sequences;
  const Sequences sequences = make_sequences(device, stretch.batch.lengths, slots, slots);
  return model.loss(tape, on_device(device, stretch.batch, sequences),
                    upload(device, stretch.batch.targets), &state);
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

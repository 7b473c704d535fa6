// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/predict.h"

namespace elapse {
namespace {

static_assert(kMaskedTarget == kIgnoredTarget);

Tensor upload(Device& device, const std::vector<int64_t>& values) {
  return device.upload(values, {static_cast<int64_t>(values.size())});
}

Prediction predict(Tape& tape, const LanguageModel& model, const TokenBatch& batch,
                   Sequences sequences, State* state, Points* points) {
  Device& device = model.device();
  Batch input = {upload(device, batch.tokens), std::move(sequences), {}};
  if (!batch.logit_rows.empty()) input.logit_rows = upload(device, batch.logit_rows);
  const Var logits = model.forward(tape, input, state, points);
  return {logits, cross_entropy(tape, logits, upload(device, batch.targets))};
}

}  // namespace

Prediction predict(Tape& tape, const LanguageModel& model, const TokenBatch& batch,
                   Points* points) {
  return predict(tape, model, batch, make_sequences(model.device(), batch.lengths), nullptr,
                 points);
}

Prediction predict(Tape& tape, const LanguageModel& model, const Stretch& stretch, State& state) {
  const std::vector<int64_t>& slots = stretch.sequences;
  return predict(tape, model, stretch.batch,
                 make_sequences(model.device(), stretch.batch.lengths, slots, slots), &state,
                 nullptr);
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

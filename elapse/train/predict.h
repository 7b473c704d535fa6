// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/token_source.h"
#include "elapse/model/language_model.h"
#include "elapse/train/stretches.h"

namespace elapse {

struct Prediction {
  Var logits;  // (rows, vocab)
  Var loss;    // (1): mean over the targets that count, nats
};

// The model run over a batch, every sequence from an empty state.
Prediction predict(Tape& tape, const LanguageModel& model, const TokenBatch& batch,
                   Points* points = nullptr);
// The loss alone, as predict() has it, without all logits in memory where the device can do that.
Var predict_loss(Tape& tape, const LanguageModel& model, const TokenBatch& batch);
// The same over a stretch, each sequence from the state in the slot of its number, which takes the
// state it ends in; no gradient goes back through them.
Var predict_loss(Tape& tape, const LanguageModel& model, const Stretch& stretch, State& state);

// The one element of a float32 or float64 tensor; waits for the device.
double scalar(Device& device, const Tensor& t);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/recorded_step.h"

#include "elapse/model/by_tokens.h"

namespace elapse {

bool RecordedStep::serves(const LanguageModel& model) {
  return verify_mode() == VerifyMode::none && !model.depends_on_position();
}

RecordedStep::RecordedStep(const LanguageModel& model, State& state, const Sequences& seqs,
                           int64_t token)
    : model_(&model), token_(model.device().upload_bytes(&token, DType::i64, {1})) {
  recording_ = model.device().record([&] {
    Tape tape(model.device(), false);
    logits_ = model.forward(tape, {token_, seqs, {}}, &state).value();
  });
}

void RecordedStep::step(State& state, int64_t token) {
  model_->device().upload_into(token_, &token);
  recording_.run();
  state.set_position(0, state.position(0) + 1);
  model_->count_recorded();
}

}  // namespace elapse

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
  Device& device = model.device();
  const auto pass = [&] {
    Tape tape(device, false);
    logits_ = model.forward(tape, {token_, seqs, {}}, &state).value();
  };
  if (!device.has_graphs()) {
    recording_ = device.record(pass);
    return;
  }
  const int64_t position = state.position(0);
  try {
    graph_ = std::make_unique<DeviceGraph>(device, pass);
    graph_->replay();
  } catch (...) {  // the pass was recorded, but nothing has run
    state.set_position(0, position);
    throw;
  }
}

void RecordedStep::step(State& state, int64_t token) {
  model_->device().upload_into(token_, &token);
  if (graph_) graph_->replay();
  else recording_.run();
  state.set_position(0, state.position(0) + 1);
  model_->count_recorded();
}

}  // namespace elapse

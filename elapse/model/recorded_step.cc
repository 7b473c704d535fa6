// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/recorded_step.h"

#include <utility>

#include "elapse/model/by_tokens.h"

namespace elapse {
namespace {

Sequences one_token_each(Device& device, const std::vector<int64_t>& slots) {
  return make_sequences(device, std::vector<int64_t>(slots.size(), 1), slots, slots);
}

std::vector<int64_t> positions_of(const State& state, const Sequences& seqs) {
  std::vector<int64_t> positions;
  for (const int64_t slot : seqs.ends) {
    positions.push_back(slot == Sequences::kNoSlot ? 0 : state.position(slot));
  }
  return positions;
}

// `tokens` more than these.
void set_positions(State& state, const Sequences& seqs, const std::vector<int64_t>& positions,
                   int64_t tokens) {
  for (size_t s = 0; s < positions.size(); ++s) {
    const int64_t slot = seqs.ends[s];
    if (slot != Sequences::kNoSlot) state.set_position(slot, positions[s] + tokens);
  }
}

}  // namespace

bool RecordedStep::serves(const LanguageModel& model) {
  return verify_mode() == VerifyMode::none && !model.depends_on_position();
}

RecordedStep::RecordedStep(const LanguageModel& model, std::vector<int64_t> slots)
    : model_(&model),
      seqs_(one_token_each(model.device(), slots)),
      tokens_(model.device().upload(std::move(slots), {seqs_.count()})) {}

void RecordedStep::move_to(std::vector<int64_t> slots) {
  ELAPSE_CHECK(slots.size() == seqs_.starts.size(), "a step of {} sequences, but {} slots",
               seqs_.count(), slots.size());
  if (slots == seqs_.starts) return;
  Device& device = model_->device();
  Sequences moved = one_token_each(device, slots);
  if (device.has_graphs()) {  // whose kernels read the tensors alone
    moved.cu_seqlens = std::exchange(seqs_.cu_seqlens, Tensor());  // a token each, still
    moved.start_slots = std::exchange(seqs_.start_slots, Tensor());
    moved.end_slots = std::exchange(seqs_.end_slots, Tensor());
    device.upload_into(moved.start_slots, slots.data());
    device.upload_into(moved.end_slots, slots.data());
  }
  seqs_ = std::move(moved);
  recording_.reset();
}

void RecordedStep::step(State& state, std::span<const int64_t> tokens) {
  ELAPSE_CHECK(static_cast<int64_t>(tokens.size()) == seqs_.count(),
               "a step of {} sequences, but {} tokens", seqs_.count(), tokens.size());
  ELAPSE_CHECK(seqs_.max_slot < state.slots(), "a sequence names state slot {}, but there are {}",
               seqs_.max_slot, state.slots());
  const int64_t vocab = model_->config().vocab();
  for (const int64_t token : tokens) {
    ELAPSE_CHECK(token >= 0 && token < vocab, "a step reads token {}, but the model has 0 to {}",
                 token, vocab - 1);
  }
  Device& device = model_->device();
  device.upload_into(tokens_, tokens.data());
  if (graph_ || recording_) {
    if (graph_) graph_->replay();
    else recording_->run();
    set_positions(state, seqs_, positions_of(state, seqs_), 1);
    model_->count_recorded(seqs_.tokens);
    return;
  }
  const auto pass = [&] {
    Tape tape(device, false);
    logits_ = model_->forward(tape, {tokens_, seqs_, {}}, &state).value();
  };
  if (!device.has_graphs()) recording_ = device.record(pass);
  else if (!has_run_) pass();
  else record_graph(state, pass);
  has_run_ = true;
}

void RecordedStep::record_graph(State& state, const std::function<void()>& pass) {
  const std::vector<int64_t> before = positions_of(state, seqs_);
  try {
    auto graph = std::make_unique<DeviceGraph>(model_->device(), pass);
    graph->replay();
    graph_ = std::move(graph);
  } catch (...) {  // the pass was recorded, but nothing has run
    set_positions(state, seqs_, before, 0);
    throw;
  }
}

}  // namespace elapse

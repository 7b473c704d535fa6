// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/by_tokens.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>

#include "elapse/model/state_file.h"

namespace elapse {
namespace {

Tensor row_indices(Device& device, const std::vector<int64_t>& rows) {
  return device.upload(rows, {static_cast<int64_t>(rows.size())});
}

}  // namespace

VerifyMode verify_mode() {
  const char* value = std::getenv("ELAPSE_VERIFY");
  const std::string_view mode = value == nullptr ? "" : value;
  if (mode == "step") return VerifyMode::step;
  if (mode == "restore") return VerifyMode::restore;
  ELAPSE_CHECK(mode.empty() || mode == "ref",
               "ELAPSE_VERIFY: expected step, restore or ref, found \"{}\"", mode);
  return VerifyMode::none;
}

namespace {

// After a pass that began at a later layer, layers remember different numbers of tokens, which no
// file holds.
bool can_be_saved(const State& state) {
  for (const LayerState& layer : state.layers()) {
    for (int64_t slot = 0; layer.memory && slot < state.slots(); ++slot) {
      if (layer.memory->length(slot) != state.position(slot)) return false;
    }
  }
  return true;
}

}  // namespace

void pass_through_file(const LanguageModel& model, State& state, bool every_layer) {
  if (!every_layer && !can_be_saved(state)) return;
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("elapse-verify-{}.safetensors", ::getpid());
  save_state(path.string(), model, state);
  state = load_state(path.string(), model);
  std::filesystem::remove(path);
  model.count_restored();
}

Var ByTokens::run(Tape& tape, const LanguageModel::Input& input, const Batch& batch, State* state,
                  const PointPass* points) {
  Device& device = model_.device();
  batch_ = &batch;
  tokens_.resize(static_cast<size_t>(batch.seqs.tokens));
  if (!input.stream) device.download_bytes(batch.tokens, tokens_.data());
  row_of_.resize(tokens_.size());
  begins_ = {0};
  for (int64_t length : batch.seqs.lengths) begins_.push_back(begins_.back() + length);

  State states = start_states(tape, batch, state);
  std::vector<Var> logits;
  for (int64_t t = 0; t < batch.seqs.max_len; ++t) {
    if (t > 0 && mode_ == VerifyMode::restore) pass_through_file(model_, states, !input.stream);
    logits.push_back(token(tape, input, t, states, points));
    ++model_.path_counts_.stepped;
  }
  if (state != nullptr) end_states(tape, batch, states, *state);
  if (logits.empty()) return model_.run(tape, input, batch, nullptr, nullptr);
  std::vector<int64_t> wanted(tokens_.size());
  if (batch.logit_rows) {
    wanted.resize(static_cast<size_t>(batch.logit_rows.numel()));
    device.download_bytes(batch.logit_rows, wanted.data());
  } else {
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = static_cast<int64_t>(i);
  }
  for (int64_t& row : wanted) row = row_of_[static_cast<size_t>(row)];
  const Var by_time = concat_rows(tape, logits);
  return gather_rows(tape, by_time, row_indices(device, wanted));
}

// A slot for each sequence of the batch. When recording, gradients flow from token to token.
State ByTokens::start_states(Tape& tape, const Batch& batch, const State* state) const {
  State states = model_.make_state(batch.seqs.count(), tape.recording());
  if (state == nullptr) return states;
  for (size_t s = 0; s < batch.seqs.starts.size(); ++s) {
    const int64_t start = batch.seqs.starts[s];
    if (start != Sequences::kNoSlot) {
      states.set_position(static_cast<int64_t>(s), state->position(start));
    }
  }
  for (int64_t l = 0; l < static_cast<int64_t>(states.layers().size()); ++l) {
    LayerState& layer = states.layer(l);
    const LayerState& from = state->layers()[static_cast<size_t>(l)];
    for (size_t p = 0; p < layer.parts.size(); ++p) {
      const Var loaded = load_slots(tape, from.parts[p].pool, batch.seqs);
      layer.parts[p].pool = add(tape, layer.parts[p].pool, loaded);
    }
    for (int64_t s = 0; layer.memory && s < batch.seqs.count(); ++s) {
      layer.memory->adopt(tape.device(), s, *from.memory,
                          batch.seqs.starts[static_cast<size_t>(s)]);
    }
  }
  return states;
}

void ByTokens::end_states(Tape& tape, const Batch& batch, const State& states,
                          const State& state) const {
  for (size_t l = 0; l < state.layers().size(); ++l) {
    const LayerState &from = states.layers()[l], &to = state.layers()[l];
    for (size_t p = 0; p < to.parts.size(); ++p) {
      store_slots(tape, from.parts[p].pool, to.parts[p].pool, batch.seqs);
    }
    for (int64_t s = 0; to.memory && s < batch.seqs.count(); ++s) {
      const int64_t end = batch.seqs.ends[static_cast<size_t>(s)];
      if (end != Sequences::kNoSlot) to.memory->adopt(tape.device(), end, *from.memory, s);
    }
  }
}

Var ByTokens::token(Tape& tape, const LanguageModel::Input& input, int64_t t, State& states,
                    const PointPass* points) {
  Device& device = model_.device();
  std::vector<int64_t> sequences, rows, ids;
  for (size_t s = 0; s < batch_->seqs.lengths.size(); ++s) {
    if (batch_->seqs.lengths[s] <= t) continue;
    const int64_t row = begins_[s] + t;
    sequences.push_back(static_cast<int64_t>(s));
    rows.push_back(row);
    ids.push_back(tokens_[static_cast<size_t>(row)]);
    row_of_[static_cast<size_t>(row)] = rows_so_far_++;
  }
  const std::vector<int64_t> ones(sequences.size(), 1);
  Batch step = {row_indices(device, ids), make_sequences(device, ones, sequences, sequences), {}};
  for (const int64_t s : sequences) step.seqs.positions.push_back(batch_->seqs.position(s) + t);
  LanguageModel::Input here = input;
  if (input.stream) here.stream = gather_rows(tape, input.stream, row_indices(device, rows));
  std::optional<PointPass> looking;
  if (points != nullptr) looking.emplace(points->step(sequences, rows, t == 0));
  const Var logits = model_.run(tape, here, step, &states, looking ? &*looking : nullptr);
  for (const int64_t s : sequences) states.set_position(s, states.position(s) + 1);
  return logits;
}

}  // namespace elapse

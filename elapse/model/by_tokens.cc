// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/by_tokens.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "elapse/model/state_file.h"

namespace elapse {
namespace {

using Axis = PointInfo::Axis;

Tensor row_indices(Device& device, const std::vector<int64_t>& rows) {
  return device.upload(rows, {static_cast<int64_t>(rows.size())});
}

// Rows of a tensor of any rank along its first axis.
Tensor take_rows(Device& device, const Tensor& t, const std::vector<int64_t>& rows) {
  Shape shape = t.shape();
  shape.set(0, static_cast<int64_t>(rows.size()));
  const Tensor taken = device.empty(t.dtype(), shape);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto to = static_cast<int64_t>(i);
    copy(device, {t.rows(rows[i], rows[i] + 1), taken.rows(to, to + 1)});
  }
  return taken;
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

void pass_through_file(const LanguageModel& model, State& state) {
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("elapse-verify-{}.safetensors", ::getpid());
  save_state(path.string(), model, state);
  state = load_state(path.string(), model);
  std::filesystem::remove(path);
  model.count_restored();
}

Var ByTokens::run(Tape& tape, const Batch& batch, State* state, Points* points) {
  Device& device = model_.device();
  batch_ = &batch;
  tokens_.resize(static_cast<size_t>(batch.seqs.tokens));
  device.download_bytes(batch.tokens, tokens_.data());
  row_of_.resize(tokens_.size());
  begins_ = {0};
  for (int64_t length : batch.seqs.lengths) begins_.push_back(begins_.back() + length);

  State states = start_states(tape, batch, state);
  std::vector<Var> logits;
  for (int64_t t = 0; t < batch.seqs.max_len; ++t) {
    if (t > 0 && mode_ == VerifyMode::restore) pass_through_file(model_, states);
    logits.push_back(token(tape, t, states, points));
    ++model_.path_counts_.stepped;
  }
  for (size_t l = 0; state != nullptr && l < state->layers().size(); ++l) {
    for (size_t p = 0; p < state->layers()[l].parts.size(); ++p) {
      store_slots(tape, states.layers()[l].parts[p].pool, state->layers()[l].parts[p].pool,
                  batch.seqs);
    }
  }
  deliver(points);
  if (logits.empty()) return model_.run(tape, batch, nullptr, nullptr);
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
  for (int64_t l = 0; l < static_cast<int64_t>(states.layers().size()); ++l) {
    LayerState& layer = states.layer(l);
    const LayerState& from = state->layers()[static_cast<size_t>(l)];
    for (size_t p = 0; p < layer.parts.size(); ++p) {
      const Var loaded = load_slots(tape, from.parts[p].pool, batch.seqs);
      layer.parts[p].pool = add(tape, layer.parts[p].pool, loaded);
    }
  }
  return states;
}

Var ByTokens::token(Tape& tape, int64_t t, State& states, Points* points) {
  Device& device = model_.device();
  std::vector<int64_t> slots, rows, ids;
  for (size_t s = 0; s < batch_->seqs.lengths.size(); ++s) {
    if (batch_->seqs.lengths[s] <= t) continue;
    const int64_t row = begins_[s] + t;
    slots.push_back(static_cast<int64_t>(s));
    rows.push_back(row);
    ids.push_back(tokens_[static_cast<size_t>(row)]);
    row_of_[static_cast<size_t>(row)] = rows_so_far_++;
  }
  const std::vector<int64_t> ones(slots.size(), 1);
  const Batch step = {row_indices(device, ids), make_sequences(device, ones, slots, slots), {}};
  Points here;
  if (points != nullptr) {
    for (const std::string& name : points->watched()) here.watch(name);
    for (const PointInfo& p : model_.points()) {
      const Edit* edit = points->edit_at(p.name);
      if (edit == nullptr || (p.axis == Axis::sequence && t > 0)) continue;
      Edit mine = *edit;
      if (mine.source.numel() != 1 && p.axis == Axis::token) {
        mine.source = take_rows(device, mine.source, rows);
      }
      here.edit(mine);
    }
  }
  Var logits = model_.run(tape, step, &states, &here);
  collect(here, points);
  return logits;
}

void ByTokens::collect(const Points& points, Points* into) {
  if (into == nullptr) return;
  for (const std::string& name : points.watched()) watched_[name].push_back(points.value(name));
}

// Values by token in packed order; those by sequence as they were at the start.
void ByTokens::deliver(Points* points) const {
  if (points == nullptr) return;
  for (const PointInfo& p : model_.points()) {
    const auto found = watched_.find(p.name);
    if (found == watched_.end()) continue;
    const Tensor& first = found->second.front();
    if (p.axis != Axis::token) {
      points->keep(p.name, first);
      continue;
    }
    Shape shape = first.shape();
    shape.set(0, rows_so_far_);
    const Tensor by_time = model_.device().empty(first.dtype(), shape);
    int64_t row = 0;
    for (const Tensor& part : found->second) {
      copy(model_.device(), {part, by_time.rows(row, row + part.dim(0))});
      row += part.dim(0);
    }
    points->keep(p.name, take_rows(model_.device(), by_time, row_of_));
  }
}

}  // namespace elapse

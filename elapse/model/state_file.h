// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "elapse/io/weight_files.h"
#include "elapse/model/language_model.h"

namespace elapse {

// A state as a safetensors file: "layers.0.h" and so on, one row a slot, "layers.0.keys" and
// "layers.0.values" of layers that remember tokens, a row for each of every slot in turn,
// "positions", and the fingerprint of the model it belongs to. Written atomically. `logits` (slots,
// ...), where given, are those of each slot's last token, in host memory: what a sampler goes on
// from.
void save_state(const std::string& path, const LanguageModel& model, const State& state,
                const Tensor& logits = {});

struct SavedState {
  State state;
  Tensor logits;  // as saved, of whatever dtype and shape; empty: none were
};

// Throws Error if the file belongs to another model or does not hold a whole state.
SavedState load_state_and_logits(const std::string& path, const LanguageModel& model);
State load_state(const std::string& path, const LanguageModel& model);

// What a saved state says without its model.
struct StateSummary {
  std::string model;               // the fingerprint of the one it belongs to
  std::vector<int64_t> positions;  // by sequence
};
// Nothing where the file is no saved state. Throws Error where it is not a sound one.
std::optional<StateSummary> summarize_state(const WeightFile& file);

}  // namespace elapse

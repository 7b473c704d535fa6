// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/model/language_model.h"

namespace elapse {

// A state as a safetensors file: "layers.0.h" and so on, one row a slot, "positions", and the
// fingerprint of the model it belongs to. Written atomically.
void save_state(const std::string& path, const LanguageModel& model, const State& state);

// Throws Error if the file belongs to another model or does not hold a whole state.
State load_state(const std::string& path, const LanguageModel& model);

}  // namespace elapse

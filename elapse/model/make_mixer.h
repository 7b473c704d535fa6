// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>

#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"
#include "elapse/model/config.h"

namespace elapse {

// The mixer of layer `layer`, with parameters under `prefix`: the published initialisation, drawn
// from `random`, or the values that `parameters` has a source for.
std::unique_ptr<Mixer> make_mixer(Device& device, const ModelConfig& config, DType dtype,
                                  int64_t layer, const std::string& prefix, Random& random,
                                  Parameters& parameters);

}  // namespace elapse

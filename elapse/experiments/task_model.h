// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/config.h"

namespace elapse {

// The model that synthetic tasks are learnt by: the mixer's defaults, but for heads of 16 channels,
// as the usual ones of 64 would be one or two, and 32 states in Mamba-2.
ModelConfig task_model(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size);

}  // namespace elapse

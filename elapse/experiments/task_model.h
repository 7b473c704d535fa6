// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/config.h"

namespace elapse {

// The model that synthetic tasks are learnt by: the mixer's defaults, but for Mamba-2 heads of 16
// channels with 32 states, as the usual heads of 64 channels would be one or two.
ModelConfig task_model(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size);

}  // namespace elapse

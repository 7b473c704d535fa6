// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/task_model.h"

namespace elapse {

ModelConfig task_model(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size) {
  ModelConfig config = ModelConfig::of(mixer, d_model, n_layers, vocab_size);
  if (mixer == MixerKind::mamba2) {
    config.head_dim = 16;
    config.d_state = 32;
  }
  if (mixer == MixerKind::attention) {
    config.head_dim = 16;
    config.n_kv_heads = config.n_heads();
  }
  return config;
}

}  // namespace elapse

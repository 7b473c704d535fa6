// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/config.h"

namespace elapse::bench {

// Multiplications of one token: of the linear maps inside the layers, of the head, and of one
// state of the scan in all layers (scan.h and ssd.h say how many each of its directions takes).
struct TokenWork {
  double layers, head, states;
};
TokenWork token_work(const ModelConfig& config);

// The models that are timed. Byte-sized vocabulary: bytes of text are what such a model reads.
inline ModelConfig mamba_256x4() { return ModelConfig::mamba(256, 4, 256); }
inline ModelConfig baseline_256x4(MixerKind mixer) {
  return mixer == MixerKind::attention ? ModelConfig::transformer_plus_plus(256, 4, 256)
                                       : ModelConfig::of(mixer, 256, 4, 256);
}
inline ModelConfig induction_model() { return ModelConfig::mamba(64, 2, 16); }

}  // namespace elapse::bench

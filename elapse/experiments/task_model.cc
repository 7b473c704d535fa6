// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/task_model.h"

#include <algorithm>
#include <numeric>

namespace elapse {
namespace {

constexpr int64_t kWide = 256;  // from here on the defaults have heads enough
constexpr int64_t kChannels = 16, kStates = 32;
constexpr int64_t kLongestCycle = 16;  // that a configuration may state

}  // namespace

ModelConfig with_heads(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size) {
  ModelConfig config = ModelConfig::of(mixer, d_model, n_layers, vocab_size);
  if (d_model >= kWide) return config;
  const int64_t channels = std::gcd(d_model, kChannels), n_heads = d_model / channels;
  switch (mixer) {
    case MixerKind::attention:
      config.head_dim = channels;
      config.n_kv_heads = n_heads;
      break;
    case MixerKind::mamba2:  // whose heads are of d_inner
      config.head_dim = channels;
      config.d_state = kStates;
      break;
    case MixerKind::retnet:
      config.d_state = channels;
      config.head_dim = 2 * channels;
      config.d_inner = n_heads * config.head_dim;
      break;
    case MixerKind::linear_attention:
    case MixerKind::gla:
      config.d_state = kStates;
      config.head_dim = channels;
      config.d_inner = d_model;
      break;
    default:
      break;
  }
  return config;
}

bool has_reach(MixerKind mixer) { return mixer == MixerKind::hyena || mixer == MixerKind::wavenet; }

int64_t reach_of(const ModelConfig& model) {
  if (model.mixer == MixerKind::hyena) {  // its long filter, of what its short one gives
    return 1 + model.n_layers * (model.l_max - 1 + model.d_conv - 1);
  }
  int64_t reach = 1;
  for (int64_t layer = 0; layer < model.n_layers; ++layer) {
    reach += (model.d_conv - 1) * model.dilation_of(layer);
  }
  return reach;
}

ModelConfig task_model(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size,
                       int64_t length) {
  ModelConfig config = with_heads(mixer, d_model, n_layers, vocab_size);
  if (mixer == MixerKind::hyena) {
    config.l_max = std::max<int64_t>(2, length);
    config.emb_dim = 3;
    config.sine_freq = 1;
  }
  while (mixer == MixerKind::wavenet && reach_of(config) < length) {
    ++config.n_layers;
    config.dilation_cycle = std::min(config.n_layers, kLongestCycle);
  }
  return config;
}

}  // namespace elapse

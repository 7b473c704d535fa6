// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/models.h"

namespace elapse::bench {

namespace {

TokenWork mamba2_work(const ModelConfig& config) {
  const int64_t in_proj =
      config.d_model * (config.d_inner + config.d_conv_inner() + config.n_heads());
  const int64_t layer =
      in_proj + config.d_conv_inner() * config.d_conv + config.d_inner * config.d_model;
  return {static_cast<double>(config.n_layers * layer),
          static_cast<double>(config.d_model * config.vocab()),
          static_cast<double>(config.n_layers * config.d_inner * config.d_state)};
}

// Of mixers and MLPs that are their matrices, and linear attention's states; what attention
// multiplies by pairs of tokens is not counted.
TokenWork matrix_work(const ModelConfig& config) {
  // A recurrent map counts at the full rate, although a token of it waits for the one before.
  int64_t weights = 0;
  config.for_each_parameter([&](const std::string& name, const Shape& shape) {
    // What makes Hyena's filter runs once for all sequences.
    const bool multiplies =
        name.find("weight") != name.npos && name.find(".filter_fn.") == name.npos;
    if (name.find(".layers.") != name.npos && multiplies) weights += shape.numel();
  });
  const int64_t states = is_linear_attention(config.mixer) ? config.d_inner * config.d_state : 0;
  return {static_cast<double>(weights), static_cast<double>(config.d_model * config.vocab()),
          static_cast<double>(config.n_layers * states)};
}

}  // namespace

TokenWork token_work(const ModelConfig& config) {
  if (!is_mamba(config.mixer)) return matrix_work(config);
  if (config.mixer == MixerKind::mamba2) return mamba2_work(config);
  const int64_t in_proj = config.d_model * 2 * config.d_inner;
  const int64_t conv = config.d_inner * config.d_conv;
  const int64_t x_proj = config.d_inner * (config.dt_rank + 2 * config.d_state);
  const int64_t dt_proj = config.dt_rank * config.d_inner;
  const int64_t out_proj = config.d_inner * config.d_model;
  const int64_t layer = in_proj + conv + x_proj + dt_proj + out_proj;
  return {static_cast<double>(config.n_layers * layer),
          static_cast<double>(config.d_model * config.vocab()),
          static_cast<double>(config.n_layers * config.d_inner * config.d_state)};
}

}  // namespace elapse::bench

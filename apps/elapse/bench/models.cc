// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/models.h"

namespace elapse::bench {

TokenWork token_work(const ModelConfig& config) {
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

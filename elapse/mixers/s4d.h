// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/mixers/diagonal.h"

namespace elapse {

struct S4dConfig {
  int64_t d_model = 0;
  int64_t d_state = 64;  // real numbers of a channel's state: even, where they are complex
  DiagonalInit init = DiagonalInit::legs;
};

// The S4D layer of Gu, Gupta, Goel and Re, 2022 (state-spaces/s4, models/s4/s4d.py):
//   ssm_out = diagonal_ssm(u);  [value, gate] = output_linear gelu(ssm_out)
//   out = value sigmoid(gate)
class S4d final : public Mixer {
 public:
  // Adds its parameters under `prefix`, with the published initialisation drawn from `random` in
  // the parameters' order.
  S4d(Device& device, const S4dConfig& config, DType dtype, const std::string& prefix,
      Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  int64_t d_model_;
  DiagonalParameters ssm_;
  Var output_linear_;       // (2 d_model, d_model): rows of value, then of gate
  Var output_linear_bias_;  // (2 d_model)
};

}  // namespace elapse

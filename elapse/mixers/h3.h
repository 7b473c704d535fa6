// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/mixers/diagonal.h"

namespace elapse {

struct H3Config {
  int64_t d_model = 0;
  int64_t d_state = 64;  // length of the shift, and real numbers of a channel's diagonal state
  DiagonalInit init = DiagonalInit::lin;
};

// The H3 layer of Fu, Dao, Saab, Thomas, Rudra and Re, 2023 (HazyResearch/H3), with heads of one
// channel, as published models have them outside of experiments:
//   q, k, v = q_proj u, k_proj u, v_proj u;  kv = shift(k) v
//   out = output_linear (q diagonal_ssm(kv))
// The shift state space remembers the last d_state tokens and reads them by trained numbers: a
// causal convolution with the queue as its state. The published skip beside it is the same as its
// first number, and is not there.
class H3 final : public Mixer {
 public:
  // Adds its parameters under `prefix`, drawn from `random` in their order; output_linear is
  // divided by sqrt(n_layers), as Mamba's out_proj is.
  H3(Device& device, const H3Config& config, int64_t n_layers, DType dtype,
     const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  // "conv" (slots, d_state - 1, d_model), the shift's queue, and "h" (slots, d_model, d_state).
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  struct Linear {
    Var weight;  // (d_model, d_model)
    Var bias;    // (d_model)
  };

  H3Config config_;
  DType dtype_;
  Linear q_, k_, v_;
  Var shift_;  // (d_model, 1, d_state): as a convolution's weight, the last is of the token itself
  DiagonalParameters ssm_;
  Linear output_;
};

}  // namespace elapse

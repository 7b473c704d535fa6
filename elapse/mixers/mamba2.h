// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <limits>

#include "elapse/autograd/functions.h"
#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

namespace elapse {

// Sizes of a Mamba-2 mixer (state-spaces/mamba, modules/mamba2.py).
struct Mamba2Config {
  int64_t d_model = 0;
  int64_t d_inner = 0;  // expand * d_model
  int64_t d_state = 128;
  int64_t d_conv = 4;
  int64_t head_dim = 64;  // divides d_inner
  int64_t n_groups = 1;   // of heads, which share B and C, and of channels, which are normed apart
  bool bias = false;      // of in_proj and out_proj
  bool conv_bias = true;
  bool D_by_channel = false;  // D has d_inner numbers rather than n_heads
  double dt_min = 0;          // limits of dt
  double dt_max = std::numeric_limits<double>::infinity();
  double norm_eps = 1e-5;

  int64_t n_heads() const { return d_inner / head_dim; }
  int64_t d_conv_inner() const { return d_inner + 2 * n_groups * d_state; }  // of x, B and C
};

// The state-space dual mixer of Dao and Gu, 2024 (Mamba-2):
//   [in_z, in_xBC, dt] = in_proj u;  [x, B, C] = silu(conv(in_xBC))
//   ssm_out = ssd(x, dt + dt_bias, A, B, C, D);  out = out_proj (norm (ssm_out silu(in_z)))
class Mamba2 final : public Mixer {
 public:
  // Adds its parameters under `prefix`, with the published initialisation drawn from `random` in
  // the parameters' order; out_proj is divided by sqrt(n_layers), as the published language model
  // rescales each residual branch.
  Mamba2(Device& device, const Mamba2Config& config, int64_t n_layers, DType dtype,
         const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  Var scan(Tape& tape, const Var& xBC, const Var& dt_raw, const Sequences& seqs,
           const LayerState* state, const PointScope& points) const;
  Var gated_norm(Tape& tape, const Var& ssm_out, const Var& z, const PointScope& points) const;

  Mamba2Config config_;
  DType dtype_;
  Var A_log_;         // (n_heads)
  Var frozen_A_;      // (n_heads): -exp(A_log) where that is not trained, and so never changes
  Var D_;             // (n_heads) or (d_inner)
  Var dt_bias_;       // (n_heads)
  Var in_proj_;       // (2 d_inner + 2 n_groups d_state + n_heads, d_model): rows of z, x, B, C, dt
  Var in_proj_bias_;  // as many, or empty
  Var conv_weight_;   // (d_inner + 2 n_groups d_state, 1, d_conv), as published
  Var conv_bias_;     // (d_inner + 2 n_groups d_state) or empty
  Var norm_weight_;   // (d_inner)
  Var out_proj_;      // (d_model, d_inner)
  Var out_proj_bias_;  // (d_model) or empty
};

}  // namespace elapse

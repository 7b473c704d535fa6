// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"
#include "elapse/ops/selective_scan.h"

namespace elapse {

// Sizes of a Mamba-1 mixer (state-spaces/mamba, modules/mamba_simple.py).
struct MambaConfig {
  int64_t d_model = 0;
  int64_t d_inner = 0;  // expand * d_model
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t dt_rank = 0;  // ceil(d_model / 16)
  bool bias = false;    // of in_proj and out_proj
  bool conv_bias = true;
  double norm_eps = 0;  // of weightless RMSNorms on dt_low, B and C; 0: there are none
  // Which of them depend on the token (Gu and Dao, 2023, Algorithms 1 and 2). What does not is
  // learned: a step size for each channel, a number for each state in B and C.
  bool selective_dt = true;
  bool selective_B = true;
  bool selective_C = true;
  bool gate = true;  // whether there is z

  // Rows of x_proj: those of dt, B and C that are selective.
  int64_t selective_rows() const {
    return (selective_dt ? dt_rank : 0) + (selective_B ? d_state : 0) + (selective_C ? d_state : 0);
  }
};

// The selective state-space mixer of Gu and Dao, 2023 (Mamba-1):
//   [in_x, in_z] = in_proj u;  x = silu(conv(in_x));  [dt_low, B, C] = x_proj x
//   dt = softplus(dt_proj dt_low + dt_bias);  out = out_proj (selective_scan(x, dt, A, B, C, D, z))
// With norm_eps each of dt_low, B and C is divided by its root mean square before it is used, and
// its named point is the quotient (transformers, models/falcon_mamba).
//
// Without selection dt = softplus(dt_bias), and B and C are the same at every token: with none
// selective the scan is a time-invariant state-space model with the real diagonal A of S4D-real,
// whose B and C, as the selective ones, all channels share. Without a gate there is no z and
// out = out_proj (selective_scan(x, dt, A, B, C, D)): the scan is given a z whose silu is a power
// of two, which its output is divided by, without a rounding.
class Mamba final : public Mixer {
 public:
  // Adds its parameters under `prefix` ("backbone.layers.0.mixer."), with the published
  // initialisation drawn from `random` in the parameters' order; out_proj is divided by
  // sqrt(n_layers), as the published language model rescales each residual branch.
  Mamba(Device& device, const MambaConfig& config, int64_t n_layers, DType dtype,
        const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  // What the scan reads of the tokens.
  struct Selection {
    Var dt_low;  // (tokens, dt_rank); empty where dt is not selective
    Var dt_raw;  // (tokens, d_inner)
    Var B, C;    // (tokens, d_state)
  };
  Selection select(Tape& tape, const Var& x, const PointScope& points) const;
  // Whether this pass is one of decoding that the device has a kernel for.
  bool is_step(const Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
               const PointScope& points) const;
  Var step(Tape& tape, const Var& u, const Sequences& seqs, const LayerState& state) const;
  Var A(Tape& tape) const;
  Var same_at(Tape& tape, int64_t tokens, const Var& constant) const;
  Var scan(Tape& tape, const Var& x, const Var& z, const Sequences& seqs, const LayerState* state,
           const PointScope& points) const;
  Var normed(Tape& tape, const Var& part, const Var& ones) const;
  ScanTaps scan_taps(Tape& tape, int64_t tokens, const PointScope& points) const;

  MambaConfig config_;
  DType dtype_;
  Var in_proj_;        // (2 d_inner, d_model): rows of x, then of z; without a gate of x alone
  Var in_proj_bias_;   // as many, or empty
  Var conv_weight_;    // (d_inner, 1, d_conv), as published
  Var conv_bias_;      // (d_inner) or empty
  Var x_proj_;         // (selective_rows, d_inner): rows of dt, B, C; empty where none is selective
  Var dt_proj_;        // (d_inner, dt_rank); or empty
  Var dt_bias_;        // (d_inner)
  Var A_log_;          // (d_inner, d_state)
  Var frozen_A_;       // (d_inner, d_state): -exp(A_log) where that is not trained, and so never
                       // written; or empty
  Var B_;              // (d_state), where B is not selective; or empty
  Var C_;              // (d_state)
  Var D_;              // (d_inner)
  Var out_proj_;       // (d_model, d_inner)
  Var out_proj_bias_;  // (d_model) or empty
  Var dt_ones_;        // (dt_rank): the weight of the weightless norm; empty where there is none
  Var state_ones_;     // (d_state): that of B's and C's
};

}  // namespace elapse

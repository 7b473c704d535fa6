// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/autograd/functions.h"
#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

namespace elapse {

// Softmax attention's successors whose memory has a constant size.
enum class LinearAttentionKind : uint8_t {
  plain,   // Katharopoulos et al., 2020: elu(x) + 1 in place of exp, and its normaliser
  retnet,  // Sun et al., 2023: a decay for each head, 1 - 2^(-5 - head), and a norm for each head
  gla,     // Yang et al., 2023: a decay for each channel of the keys, which the token chooses
};

struct LinearAttentionConfig {
  LinearAttentionKind kind = LinearAttentionKind::plain;
  int64_t d_model = 0;
  int64_t n_heads = 1;
  int64_t d_k = 0;                         // of a head: channels of q and k
  int64_t d_v = 0;                         // of a head: channels of v
  double norm_eps = 1e-5;                  // of retnet's and gla's norm
  static constexpr int64_t kLowRank = 16;  // of gla's decays, between its two maps

  int64_t keys() const { return n_heads * d_k; }
  int64_t d_inner() const { return n_heads * d_v; }
};

// Linear attention: q, k, v = q_proj u, k_proj u, v_proj u; for each head
//   h[t] = decay h[t-1] + v[t] k[t]^T;  readout[t] = h[t] q[t]
// and then
//   plain       q and k past elu(x) + 1, decay 1;  z[t] = z[t-1] + k[t];
//               out = o_proj (readout / (q z + 1e-6))
//   retnet      out = o_proj (silu(g_proj u) norm(readout))
//   gla         the same, decay = sigmoid(gk_proj.1 (gk_proj.0 u) + bias)^(1/16), a number for
//               each of a head's d_k; the norm has a weight
// norm divides a head's channels by their root mean square. The published scale of q or k, which
// such a norm takes out again, is in its eps: d_k times as large. RetNet's rotation of q and k by
// position is left out: its decay alone says how far away a token is.
class LinearAttention final : public Mixer {
 public:
  // Adds its parameters under `prefix`, drawn from `random` in their order: as PyTorch starts
  // linear maps (plain), or as published, by Xavier's rule with gains of 2^-2.5, and of 1/2 for
  // o_proj. o_proj is divided by sqrt(n_layers), as Mamba's out_proj is.
  LinearAttention(Device& device, const LinearAttentionConfig& config, int64_t n_layers,
                  DType dtype, const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  // "h" (slots, d_inner, d_k); and plain's "z" (slots, n_heads, d_k).
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  struct Heads {
    Var q, k, v;
  };
  // What is remembered: the part of the state, and the names of points, null where there is none.
  struct Memory {
    const char *part, *start, *decay, *write, *h, *readout_h;
  };
  Tensor log_decays(Device& device) const;
  bool is(LinearAttentionKind kind) const { return config_.kind == kind; }
  Var fixed_decay(Tape& tape, const Memory& names, const Heads& heads, const Sequences& seqs,
                  const LayerState* state, const PointScope& points) const;
  Var chosen_decay(Tape& tape, const Heads& heads, const Var& u, const Sequences& seqs,
                   const LayerState* state, const PointScope& points) const;
  Var normalised(Tape& tape, const Heads& heads, const Var& readout, const Sequences& seqs,
                 const LayerState* state, const PointScope& points) const;
  Var gated(Tape& tape, const Var& readout, const Var& u, const PointScope& points) const;

  LinearAttentionConfig config_;
  DType dtype_;
  Var q_proj_, k_proj_;    // (n_heads d_k, d_model)
  Var v_proj_;             // (d_inner, d_model)
  Var g_proj_;             // (d_inner, d_model); plain has none
  Var gk_low_;             // (kLowRank, d_model): gla's, as those of the next line
  Var gk_proj_, gk_bias_;  // (n_heads d_k, kLowRank), (n_heads d_k)
  Var norm_weight_;        // (d_v); ones that are not trained, of retnet
  Var o_proj_;             // (d_model, d_inner)
  Var log_decay_;          // (n_heads): plain's and retnet's
  Var zeros_;              // (n_heads)
};

}  // namespace elapse

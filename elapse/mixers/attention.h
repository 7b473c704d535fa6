// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/autograd/attention.h"
#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"
#include "elapse/mixers/rope_scaling.h"

namespace elapse {

// How queries and keys know where they stand.
enum class Positions : uint8_t {
  none,    // not at all, but for what the model adds to its input
  rotary,  // Su et al., 2021
  xpos,    // Sun et al., 2022: rotary, and scales that let attention fade with the distance: up to
           // position 24 521, where they would leave float32 no room; beyond, Error
};

struct AttentionConfig {
  int64_t d_model = 0;
  int64_t n_heads = 1;
  int64_t n_kv_heads = 1;  // divides n_heads: 1 is multi-query, fewer than n_heads grouped-query
  int64_t head_dim = 0;    // even where positions rotate
  Positions positions = Positions::rotary;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  int64_t window = 0;    // positions that a token sees, its own included; 0: all
  int64_t dilation = 1;  // of those, every dilation-th
  bool qkv_bias = false;
  bool out_bias = false;
};

// Causal attention, multi-head or grouped-query, with Llama's parameters and conventions:
//   q, k, v = q_proj u, k_proj u, v_proj u;  z = attention(rotated q, rotated k, v)
//   out = o_proj z
// Its memory grows: keys (rotated) and values of all tokens, or of the window's.
class Attention final : public Mixer {
 public:
  // Adds its parameters under `prefix`, drawn from `random` in their order: normal with deviation
  // 0.02, o_proj divided by sqrt(2 n_layers) as GPT-2 rescales its residual branches; biases are 0.
  Attention(Device& device, const AttentionConfig& config, int64_t n_layers, DType dtype,
            const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  // No parts, but `memory`.
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;
  bool depends_on_position() const override { return true; }

 private:
  struct Projection {
    Var weight, bias;
  };
  Var heads(Tape& tape, const Var& x, int64_t n_heads, const char* name,
            const PointScope& points) const;
  Var rotated(Tape& tape, const Var& x, const std::vector<double>& growth, const Sequences& seqs,
              const LayerState* state) const;

  AttentionConfig config_;
  DType dtype_;
  Projection q_proj_;                              // (n_heads * head_dim, d_model)
  Projection k_proj_;                              // (n_kv_heads * head_dim, d_model)
  Projection v_proj_;                              // (n_kv_heads * head_dim, d_model)
  Projection o_proj_;                              // (d_model, n_heads * head_dim)
  std::vector<double> frequencies_;                // of rotations, by pair of channels; or none
  std::vector<double> query_growth_, key_growth_;  // of xPos; or none
};

}  // namespace elapse

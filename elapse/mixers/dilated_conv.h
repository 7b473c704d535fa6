// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/autograd/functions.h"
#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

namespace elapse {

struct DilatedConvConfig {
  int64_t d_model = 0;
  int64_t d_inner = 0;   // channels of f, of g and of z
  int64_t width = 2;     // tokens that the convolution sees, from 2 on
  int64_t dilation = 1;  // tokens from one of them to the next
};

// A layer of WaveNet (van den Oord et al., 2016): a causal convolution over tokens `dilation`
// apart, mixing all channels, and a gate.
//   taps = (u[t - (width - 1) dilation], ..., u[t - dilation], u[t]);  [f, g] = conv taps + bias
//   z = tanh(f) sigmoid(g);  out = out_proj z
// The published layer has two projections of z: one is added to the stream that later layers read,
// the other to a sum of skips, which alone the head reads, past two more layers of 1 by 1. A mixer
// here has one output, which is added to the backbone's stream, and the head reads the stream after
// the last layer: the sum of all layers' outputs and of the embedding. That is the published model
// with both projections the same; with different ones it has d_inner d_model parameters a layer
// more, which a stream as wide as both sums together would hold.
class DilatedConv final : public Mixer {
 public:
  // Adds its parameters under `prefix`, as PyTorch starts convolutions, drawn from `random` in
  // their order; out_proj is divided by sqrt(n_layers), as Mamba's is.
  DilatedConv(Device& device, const DilatedConvConfig& config, int64_t n_layers, DType dtype,
              const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  // "queue" (slots, (width - 1) dilation, d_model): the last rows of u, each at its position modulo
  // their number.
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;
  bool depends_on_position() const override { return true; }

 private:
  Delays delays() const { return {config_.width, config_.dilation}; }

  DilatedConvConfig config_;
  DType dtype_;
  Var conv_weight_;  // (2 d_inner, width d_model): rows of f, then of g; conv1d's weight
                     // (out, in, width) with `in` last
  Var conv_bias_;    // (2 d_inner)
  Var out_proj_;     // (d_model, d_inner)
};

}  // namespace elapse

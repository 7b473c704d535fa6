// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/autograd/functions.h"
#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

namespace elapse {

struct RecurrentConfig {
  Cell cell = Cell::lstm;
  int64_t d_model = 0;
  int64_t d_inner = 0;  // of h and of each gate
};

// A layer of recurrent cells, as PyTorch's RNN, LSTM and GRU are one, and a projection back:
//   a = weight_ih u + bias_ih;  h = cell(a, weight_hh, bias_hh);  out = out_proj h
class Recurrent final : public Mixer {
 public:
  // Adds its parameters under `prefix`, with PyTorch's names and initialisation, drawn from
  // `random` in their order; out_proj is divided by sqrt(n_layers), as Mamba's are.
  Recurrent(Device& device, const RecurrentConfig& config, int64_t n_layers, DType dtype,
            const std::string& prefix, Random& random, Parameters& parameters);

  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  // One part, "cell": (slots, 1 or 2, d_inner), h and lstm's c.
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  RecurrentTaps taps(Tape& tape, int64_t tokens, const PointScope& points) const;

  RecurrentConfig config_;
  DType dtype_;
  Var weight_ih_, weight_hh_, bias_ih_, bias_hh_, out_proj_;
};

}  // namespace elapse

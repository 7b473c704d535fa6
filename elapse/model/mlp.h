// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/parameters.h"
#include "elapse/core/random.h"
#include "elapse/model/config.h"
#include "elapse/points/pass.h"

namespace elapse {

// The MLP of a residual block, one token at a time:
//   swiglu:           out = down_proj(silu(gate_proj u) * up_proj u)  (Shazeer, 2020)
//   gelu, gelu_tanh:  out = proj(gelu(fc u))                          (as in GPT-2)
// each map with a bias where the configuration has `mlp_bias`.
class Mlp {
 public:
  // Adds its parameters under `prefix`. A SwiGLU starts as state-spaces/mamba's GatedMLP: PyTorch's
  // linear maps, the last divided by sqrt(n_layers) as the mixers' are. The others start as GPT-2:
  // normal values of deviation 0.02, the last's divided by sqrt(2 n_layers). Biases start at 0.
  Mlp(Device& device, const ModelConfig& config, DType dtype, const std::string& prefix,
      Random& random, Parameters& parameters);

  // u (tokens, d_model) -> (tokens, d_model)
  Var forward(Tape& tape, const Var& u, const PointScope& points) const;

  std::vector<PointInfo> points() const;

  // Calls visit with the parameters in order.
  static void for_each_parameter(const ModelConfig& config, const std::string& prefix,
                                 const ModelConfig::VisitParameter& visit);

 private:
  struct Map {
    Var weight;  // (out, in)
    Var bias;    // (out); or empty
  };
  static Var apply(Tape& tape, const Map& map, const Var& x);

  MlpKind kind_;
  Map in_;    // up_proj or fc, (d_intermediate, d_model)
  Map gate_;  // likewise; swiglu's alone
  Map out_;   // down_proj or proj, (d_model, d_intermediate)
};

}  // namespace elapse

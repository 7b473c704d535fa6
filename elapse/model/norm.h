// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/parameters.h"
#include "elapse/model/config.h"

namespace elapse {

// A norm of the residual stream: RMSNorm, which has weights, or LayerNorm, which has biases too.
class Norm {
 public:
  Norm() = default;
  // Adds `name`.weight and `name`.bias, ones and zeros at first. What it gives is of dtype
  // `activations`.
  Norm(Device& device, const ModelConfig& config, DType dtype, DType activations,
       const std::string& name, Parameters& parameters);

  // As rms_norm and layer_norm (functions.h): `residual` may be empty.
  Normed forward(Tape& tape, const Var& x, const Var& residual, const Tap& scale_tap = {}) const;

  // Calls visit with the parameters in order.
  static void for_each_parameter(const ModelConfig& config, const std::string& name,
                                 const ModelConfig::VisitParameter& visit);

 private:
  Var weight_;  // (d_model)
  Var bias_;    // (d_model); empty: RMSNorm
  double eps_ = 0;
  DType activations_ = DType::f32;
};

}  // namespace elapse

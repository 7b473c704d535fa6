// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/norm.h"

#include "elapse/mixers/start.h"

namespace elapse {

Norm::Norm(Device& device, const ModelConfig& config, DType dtype, DType activations,
           const std::string& name, Parameters& parameters)
    : eps_(config.norm_eps), activations_(activations) {
  for_each_parameter(config, name, [&](const std::string& full, const Shape& shape) {
    const bool is_bias = full.ends_with(".bias");
    (is_bias ? bias_ : weight_) = parameters.add(full, shape, ParameterUse::other, [&] {
      return filled(device, dtype, shape, is_bias ? 0 : 1).value();
    });
  });
}

Normed Norm::forward(Tape& tape, const Var& x, const Var& residual, const Tap& scale_tap) const {
  if (bias_) return layer_norm(tape, x, residual, weight_, bias_, eps_, scale_tap, activations_);
  return rms_norm(tape, x, residual, weight_, eps_, scale_tap, activations_);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/s4d.h"

#include "elapse/autograd/functions.h"
#include "elapse/mixers/start.h"

namespace elapse {

S4d::S4d(Device& device, const S4dConfig& config, DType dtype, const std::string& prefix,
         Random& random, Parameters& parameters)
    : d_model_(config.d_model),
      ssm_(device, config.init, config.d_model, config.d_state, dtype, prefix + "kernel.",
           prefix + "D", random, parameters) {
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  const double bound = linear_bound(d_model_);
  output_linear_ =
      add.uniform("output_linear.weight", {2 * d_model_, d_model_}, Use::matrix, bound);
  output_linear_bias_ = add.uniform("output_linear.bias", {2 * d_model_}, Use::other, bound);
}

Var S4d::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                 const PointScope& points) const {
  const Var ssm_out = points.pass(tape, "ssm_out", ssm_.run(tape, *this, u, seqs, state, points));
  const Var gelu_out = points.pass(tape, "gelu", gelu(tape, ssm_out));
  const Var both = linear(tape, gelu_out, output_linear_, output_linear_bias_);
  const std::vector<Var> parts = split(tape, both, {d_model_, d_model_});
  const Var value = points.pass(tape, "value", parts[0]);
  const Var gate = points.pass(tape, "gate", sigmoid(tape, parts[1]));
  return points.pass(tape, "out", mul(tape, value, gate));
}

LayerState S4d::make_state(Device& device, int64_t slots, bool needs_grad) const {
  LayerState state;
  state.parts.push_back(ssm_.make_part(device, slots, needs_grad));
  return state;
}

std::vector<PointInfo> S4d::points() const {
  std::vector<PointInfo> list = ssm_.points();
  for (const char* name : {"ssm_out", "gelu", "value", "gate", "out"}) list.push_back({name});
  return list;
}

}  // namespace elapse

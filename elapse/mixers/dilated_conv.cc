// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/dilated_conv.h"

#include "elapse/mixers/start.h"

namespace elapse {

DilatedConv::DilatedConv(Device& device, const DilatedConvConfig& config, int64_t n_layers,
                         DType dtype, const std::string& prefix, Random& random,
                         Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_inner = config.d_inner, inputs = config.width * config.d_model;
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  const double bound = linear_bound(inputs);
  conv_weight_ = add.uniform("conv.weight", {2 * d_inner, inputs}, Use::matrix, bound);
  conv_bias_ = add.uniform("conv.bias", {2 * d_inner}, Use::other, bound);
  out_proj_ = add.uniform("out_proj.weight", {config.d_model, d_inner}, Use::matrix,
                          linear_bound(d_inner * n_layers));
}

Var DilatedConv::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                         const PointScope& points) const {
  const Var side_by_side = run_from_starts(tape, *this, state, "queue", "queue_start", seqs, points,
                                           [&](const Sequences& from, const Var& pool) {
                                             return delayed(tape, u, delays(), from, pool);
                                           });
  const Var taps = points.pass(tape, "taps", side_by_side);
  const std::vector<Var> conv =
      split(tape, linear(tape, taps, conv_weight_, conv_bias_), {config_.d_inner, config_.d_inner});
  const Var f = points.pass(tape, "f", conv[0]), g = points.pass(tape, "g", conv[1]);
  const Var z = points.pass(tape, "z", mul(tape, tanh(tape, f), sigmoid(tape, g)));
  return points.pass(tape, "out", linear(tape, z, out_proj_, Var()));
}

LayerState DilatedConv::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const Shape queue = {slots, delays().queue_rows(), config_.d_model};
  LayerState state;
  state.parts.push_back({"queue", Var(device.zeros(dtype_, queue), needs_grad)});
  return state;
}

std::vector<PointInfo> DilatedConv::points() const {
  return {{"queue_start", PointInfo::Axis::sequence}, {"taps"}, {"f"}, {"g"}, {"z"}, {"out"}};
}

}  // namespace elapse

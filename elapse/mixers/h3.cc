// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/h3.h"

#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/mixers/convolution.h"
#include "elapse/mixers/start.h"

namespace elapse {

H3::H3(Device& device, const H3Config& config, int64_t n_layers, DType dtype,
       const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model, d_state = config.d_state;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  const double bound = linear_bound(d_model);
  const auto add_linear = [&](const std::string& name, double within) -> Linear {
    return {add.uniform(name + ".weight", {d_model, d_model}, ParameterUse::matrix, within),
            add.uniform(name + ".bias", {d_model}, ParameterUse::other, within)};
  };
  q_ = add_linear("q_proj", bound);
  k_ = add_linear("k_proj", bound);
  v_ = add_linear("v_proj", bound);
  shift_ = add.uniform("shift.weight", {d_model, 1, d_state}, ParameterUse::convolution,
                       linear_bound(d_state));
  ssm_ = DiagonalParameters(device, config.init, d_model, d_state, dtype, prefix + "ssm_kernel.",
                            prefix + "D", random, parameters);
  output_ = add_linear("output_linear", bound / std::sqrt(static_cast<double>(n_layers)));
}

Var H3::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                const PointScope& points) const {
  const auto projected = [&](const char* name, const Linear& to) {
    return points.pass(tape, name, linear(tape, u, to.weight, to.bias));
  };
  const Var q = projected("q", q_), k = projected("k", k_), v = projected("v", v_);
  const Var shifted = convolve(tape, *this, k, shift_, Var(), seqs, state, points, false);
  const Var kv = points.pass(tape, "kv", mul(tape, shifted, v));
  const Var ssm_out = points.pass(tape, "ssm_out", ssm_.run(tape, *this, kv, seqs, state, points));
  const Var gated = points.pass(tape, "gated", mul(tape, ssm_out, q));
  return points.pass(tape, "out", linear(tape, gated, output_.weight, output_.bias));
}

LayerState H3::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const Shape queue = {slots, config_.d_state - 1, config_.d_model};
  LayerState state;
  state.parts.push_back({"conv", Var(device.zeros(dtype_, queue), needs_grad)});
  state.parts.push_back(ssm_.make_part(device, slots, needs_grad));
  return state;
}

std::vector<PointInfo> H3::points() const {
  std::vector<PointInfo> list = {{"q"}, {"k"}, {"v"}};
  for (PointInfo& point : convolution_points(config_.d_state)) list.push_back(std::move(point));
  list.push_back({"kv"});
  for (PointInfo& point : ssm_.points()) list.push_back(std::move(point));
  for (const char* name : {"ssm_out", "gated", "out"}) list.push_back({name});
  return list;
}

}  // namespace elapse

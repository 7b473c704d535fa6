// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/mlp.h"

#include <cmath>

#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr double kGpt2Deviation = 0.02;

Var add_weight(const NewParameters& add, const ModelConfig& c, bool is_last,
               const std::string& name, const Shape& shape) {
  const auto layers = static_cast<double>(c.n_layers);
  if (c.mlp == MlpKind::swiglu) {
    const double bound = linear_bound(shape[1]);
    return add.uniform(name, shape, ParameterUse::matrix,
                       is_last ? bound / std::sqrt(layers) : bound);
  }
  return add.normal(name, shape, ParameterUse::matrix,
                    is_last ? kGpt2Deviation / std::sqrt(2 * layers) : kGpt2Deviation);
}

}  // namespace

Mlp::Mlp(Device& device, const ModelConfig& config, DType dtype, const std::string& prefix,
         Random& random, Parameters& parameters)
    : kind_(config.mlp) {
  const NewParameters add = {device, dtype, prefix, random, parameters};
  for_each_parameter(config, prefix, [&](const std::string& full, const Shape& shape) {
    const bool is_bias = shape.rank() == 1;
    const std::string name = full.substr(prefix.size()), map = name.substr(0, name.rfind('.'));
    const bool is_last = map == "down_proj" || map == "proj";
    const Var value = is_bias ? add.constant(name, shape, ParameterUse::other, 0)
                              : add_weight(add, config, is_last, name, shape);
    Map& into = is_last ? out_ : map == "gate_proj" ? gate_ : in_;
    (is_bias ? into.bias : into.weight) = value;
  });
}

Var Mlp::apply(Tape& tape, const Map& map, const Var& x) {
  return linear(tape, x, map.weight, map.bias);
}

Var Mlp::forward(Tape& tape, const Var& u, const PointScope& points) const {
  Var post;
  if (kind_ == MlpKind::swiglu) {
    const Var pre = points.pass(tape, "pre", apply(tape, gate_, u));
    post = swiglu(tape, pre, points.pass(tape, "pre_linear", apply(tape, in_, u)));
  } else {
    const Var pre = points.pass(tape, "pre", apply(tape, in_, u));
    post = kind_ == MlpKind::gelu ? gelu(tape, pre) : gelu_tanh(tape, pre);
  }
  return points.pass(tape, "out", apply(tape, out_, points.pass(tape, "post", post)));
}

std::vector<PointInfo> Mlp::points() const {
  if (kind_ == MlpKind::swiglu) return {{"pre"}, {"pre_linear"}, {"post"}, {"out"}};
  return {{"pre"}, {"post"}, {"out"}};
}

}  // namespace elapse

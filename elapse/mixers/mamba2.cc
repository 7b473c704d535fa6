// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/mamba2.h"

#include <array>
#include <cmath>

#include "elapse/mixers/convolution.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr double kLeastA = 1, kMostA = 16;  // -A starts uniform between them

Values A_log_values(Random& random, int64_t count) {
  Values values(static_cast<size_t>(count));
  for (double& v : values) v = std::log(random.uniform(kLeastA, kMostA));
  return values;
}

constexpr std::array<const char*, static_cast<size_t>(SsdPoint::count)> kSsdPointNames = {
    "dt_pre", "dt", "decay", "B_bar", "write", "h", "readout_h", "y"};

SsdTaps ssd_taps(Tape& tape, const SsdInputs& shapes, DType dtype, const PointScope& points) {
  if (!points.looks()) return {};
  SsdTaps taps;
  for (size_t i = 0; i < taps.size(); ++i) {
    const Shape shape = shapes.point_shape(static_cast<SsdPoint>(i));
    taps[i] = points.tap(tape, kSsdPointNames[i], dtype, shape);
  }
  return taps;
}

}  // namespace

Mamba2::Mamba2(Device& device, const Mamba2Config& config, int64_t n_layers, DType dtype,
               const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model, d_inner = config.d_inner, n_heads = config.n_heads();
  const int64_t d_conv_inner = config.d_conv_inner(), in_rows = d_inner + d_conv_inner + n_heads;
  using Use = ParameterUse;
  const auto add = [&](const char* name, Shape shape, Use use, auto&& start) {
    return parameters.add(prefix + name, shape, use, [&] {
      return upload_rounded(device, dtype, start(shape.numel()), shape);
    });
  };
  const auto constant = [](double value) {
    return [value](int64_t count) { return Values(static_cast<size_t>(count), value); };
  };
  const auto uniform_of = [&](int64_t inputs, double divisor) {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs)) / divisor;
    return [&random, bound](int64_t count) { return uniform_values(random, count, bound); };
  };
  A_log_ = add("A_log", {n_heads}, Use::other,
               [&](int64_t count) { return A_log_values(random, count); });
  D_ = add("D", {config.D_by_channel ? d_inner : n_heads}, Use::other, constant(1));
  dt_bias_ = add("dt_bias", {n_heads}, Use::other,
                 [&](int64_t count) { return dt_bias_values(random, count); });
  in_proj_ = add("in_proj.weight", {in_rows, d_model}, Use::matrix, uniform_of(d_model, 1));
  if (config.bias) in_proj_bias_ = add("in_proj.bias", {in_rows}, Use::other, constant(0));
  conv_weight_ = add("conv1d.weight", {d_conv_inner, 1, config.d_conv}, Use::convolution,
                     uniform_of(config.d_conv, 1));
  if (config.conv_bias) {
    conv_bias_ = add("conv1d.bias", {d_conv_inner}, Use::other, uniform_of(config.d_conv, 1));
  }
  norm_weight_ = add("norm.weight", {d_inner}, Use::other, constant(1));
  out_proj_ = add("out_proj.weight", {d_model, d_inner}, Use::matrix,
                  uniform_of(d_inner, std::sqrt(static_cast<double>(n_layers))));
  if (config.bias) out_proj_bias_ = add("out_proj.bias", {d_model}, Use::other, constant(0));
  if (!A_log_.needs_grad()) {
    Tape tape(device, false);
    frozen_A_ = neg_exp(tape, A_log_);
  }
}

Var Mamba2::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                    const PointScope& points) const {
  const Var all = linear(tape, u, in_proj_, in_proj_bias_);
  const std::vector<Var> parts =
      split(tape, all, {config_.d_inner, config_.d_conv_inner(), config_.n_heads()});
  const Var z = points.pass(tape, "in_z", parts[0]);
  const Var in_xBC = points.pass(tape, "in_xBC", parts[1]);
  const Var xBC = convolve(tape, *this, in_xBC, conv_weight_, conv_bias_, seqs, state, points);
  const Var ssm_out = points.pass(tape, "ssm_out", scan(tape, xBC, parts[2], seqs, state, points));
  const Var normed = points.pass(tape, "norm", gated_norm(tape, ssm_out, z, points));
  return points.pass(tape, "out", linear(tape, normed, out_proj_, out_proj_bias_));
}

Var Mamba2::scan(Tape& tape, const Var& xBC, const Var& dt_raw, const Sequences& seqs,
                 const LayerState* state, const PointScope& points) const {
  const int64_t BC_columns = config_.n_groups * config_.d_state;
  const std::vector<Var> parts = split(tape, xBC, {config_.d_inner, BC_columns, BC_columns});
  const SsdVars in = {.x = points.pass(tape, "x", parts[0]),
                      .dt_raw = dt_raw,
                      .dt_bias = dt_bias_,
                      .A = points.pass(tape, "A", frozen_A_ ? frozen_A_ : neg_exp(tape, A_log_)),
                      .B = points.pass(tape, "B", parts[1]),
                      .C = points.pass(tape, "C", parts[2]),
                      .D = D_};
  const SsdNumbers numbers = {config_.n_groups, config_.dt_min, config_.dt_max};
  const SsdTaps taps = ssd_taps(tape, in.inputs(numbers, seqs), dtype_, points);
  return run_from_starts(tape, *this, state, "h", "h_start", seqs, points,
                         [&](const Sequences& from, const Var& pool) {
                           return ssd(tape, in, numbers, from, pool, taps);
                         });
}

Var Mamba2::gated_norm(Tape& tape, const Var& ssm_out, const Var& z,
                       const PointScope& points) const {
  const Shape channels = ssm_out.value().shape();
  const GatedNormTaps taps = {points.tap(tape, "gate", dtype_, channels),
                              points.tap(tape, "gated", dtype_, channels),
                              points.tap(tape, "scale", dtype_, {channels[0], config_.n_groups})};
  return gated_rms_norm(tape, ssm_out, z, norm_weight_, config_.n_groups, config_.norm_eps, taps);
}

LayerState Mamba2::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const Shape conv = {slots, config_.d_conv - 1, config_.d_conv_inner()};
  const Shape h = {slots, config_.d_inner, config_.d_state};
  LayerState state;
  state.parts.push_back({"conv", Var(device.zeros(dtype_, conv), needs_grad)});
  state.parts.push_back({"h", Var(device.zeros(dtype_, h), needs_grad)});
  return state;
}

std::vector<PointInfo> Mamba2::points() const {
  using Axis = PointInfo::Axis;
  std::vector<PointInfo> list = {{"in_z"}, {"in_xBC"}};
  for (PointInfo& point : convolution_points(config_.d_conv)) list.push_back(std::move(point));
  list.push_back({"x"});
  list.push_back({"A", Axis::none});
  for (const char* name : {"B", "C"}) list.push_back({name});
  list.push_back({"h_start", Axis::sequence});
  for (const char* name : kSsdPointNames) list.push_back({name});
  for (const char* name : {"ssm_out", "gate", "gated", "scale", "norm", "out"}) {
    list.push_back({name});
  }
  return list;
}

}  // namespace elapse

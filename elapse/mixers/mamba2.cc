// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/mamba2.h"

#include <array>
#include <cmath>

#include "elapse/mixers/convolution.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr double kLeastA = 1, kMostA = 16;  // -A starts uniform between them

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
  const NewParameters add = {device, dtype, prefix, random, parameters};
  A_log_ = add.drawn("A_log", {n_heads}, Use::other,
                     [&] { return std::log(random.uniform(kLeastA, kMostA)); });
  D_ = add.constant("D", {config.D_by_channel ? d_inner : n_heads}, Use::other, 1);
  dt_bias_ = add.drawn("dt_bias", {n_heads}, Use::other, [&] { return dt_bias_start(random); });
  in_proj_ = add.uniform("in_proj.weight", {in_rows, d_model}, Use::matrix, linear_bound(d_model));
  if (config.bias) in_proj_bias_ = add.constant("in_proj.bias", {in_rows}, Use::other, 0);
  const double conv_bound = linear_bound(config.d_conv);
  conv_weight_ =
      add.uniform("conv1d.weight", {d_conv_inner, 1, config.d_conv}, Use::convolution, conv_bound);
  if (config.conv_bias) {
    conv_bias_ = add.uniform("conv1d.bias", {d_conv_inner}, Use::other, conv_bound);
  }
  norm_weight_ = add.constant("norm.weight", {d_inner}, Use::other, 1);
  out_proj_ = add.uniform("out_proj.weight", {d_model, d_inner}, Use::matrix,
                          linear_bound(d_inner) / std::sqrt(static_cast<double>(n_layers)));
  if (config.bias) out_proj_bias_ = add.constant("out_proj.bias", {d_model}, Use::other, 0);
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

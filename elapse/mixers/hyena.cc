// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/hyena.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/state_space.h"
#include "elapse/mixers/convolution.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr int64_t kShortTaps = 3;
constexpr double kFirstFreq = 14;
constexpr double kLeastBand = 1e-4;
const double kSlowest = std::log(0.01) / 1.5, kFastest = std::log(0.01) / 0.3;

// Number i of `count` that go evenly from `first` to `last`.
double evenly(double first, double last, int64_t count, int64_t i) {
  if (count == 1) return first;
  return first + (last - first) * static_cast<double>(i) / static_cast<double>(count - 1);
}

Var constant(Device& device, DType dtype, const Values& values, Shape shape) {
  if (dtype == DType::f64) return Var(device.upload(values, shape));
  return Var(device.upload(std::vector<float>(values.begin(), values.end()), shape));
}

}  // namespace

Hyena::Hyena(Device& device, const HyenaConfig& config, int64_t n_layers, DType dtype,
             const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model, order = config.filter_order;
  const auto bound = [](int64_t inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); };
  using Use = ParameterUse;
  const auto add = [&](const std::string& name, Shape shape, Use use, auto&& start) {
    return parameters.add(prefix + name, shape, use, [&] {
      return upload_rounded(device, dtype, start(shape.numel()), shape);
    });
  };
  const auto add_layer = [&](const std::string& name, Shape weight, Use use, double within) {
    const auto uniform = [&](int64_t count) { return uniform_values(random, count, within); };
    Linear layer;
    layer.weight = add(name + ".weight", weight, use, uniform);
    layer.bias = add(name + ".bias", {weight[0]}, Use::other, uniform);
    return layer;
  };
  in_proj_ = add_layer("in_proj", {3 * d_model, d_model}, Use::matrix, bound(d_model));
  short_filter_ =
      add_layer("short_filter", {3 * d_model, 1, kShortTaps}, Use::convolution, bound(kShortTaps));
  D_ = add("filter_fn.bias", {d_model}, Use::other,
           [&](int64_t count) { return normal_values(random, count); });
  const std::string mlp = "filter_fn.implicit_filter.";
  mlp_[0] = add_layer(mlp + "0", {order, config.emb_dim}, Use::other, bound(config.emb_dim));
  freq_ = add(mlp + "1.freq", {1, order}, Use::other,
              [](int64_t count) { return Values(static_cast<size_t>(count), kFirstFreq); });
  mlp_[1] = add_layer(mlp + "2", {order, order}, Use::other, bound(order));
  mlp_[2] = add_layer(mlp + "4", {order, order}, Use::other, bound(order));
  mlp_[3].weight = add(mlp + "6.weight", {d_model, order}, Use::other,
                       [&](int64_t count) { return uniform_values(random, count, bound(order)); });
  out_proj_ = add_layer("out_proj", {d_model, d_model}, Use::matrix, bound(d_model * n_layers));

  Values delta;
  for (int64_t e = 0; e < d_model; ++e) delta.push_back(evenly(kSlowest, kFastest, d_model, e));
  delta_ = constant(device, dtype, delta, {d_model, 1});
  nearest_first_ = lags(device, false);
  furthest_first_ = lags(device, true);
  if (!mlp_[3].weight.needs_grad()) {
    Tape tape(device, false);
    kept_filter_ = filter(tape, furthest_first_);
  }
}

Hyena::Lags Hyena::lags(Device& device, bool furthest_first) const {
  const int64_t l_max = config_.l_max, bands = (config_.emb_dim - 1) / 2;
  Values features, ts;
  for (int64_t row = 0; row < l_max; ++row) {
    const auto lag = static_cast<double>(furthest_first ? l_max - 1 - row : row);
    const double t = lag / static_cast<double>(l_max - 1);
    const double angle = 2 * std::numbers::pi * lag / static_cast<double>(l_max);
    const auto of_band = [&](int64_t band) {
      return angle * evenly(kLeastBand, static_cast<double>(bands - 1), bands, band);
    };
    ts.push_back(t);
    features.push_back(t);
    for (int64_t i = 0; i < bands; ++i) features.push_back(std::cos(of_band(i)));
    for (int64_t i = 0; i < bands; ++i) features.push_back(-std::sin(of_band(i)));
  }
  return {constant(device, dtype_, features, {l_max, config_.emb_dim}),
          constant(device, dtype_, ts, {1, l_max})};
}

Var Hyena::filter(Tape& tape, const Lags& lags) const {
  Var h = lags.features;
  for (size_t i = 0; i + 1 < mlp_.size(); ++i) {
    h = sine(tape, mul(tape, linear(tape, h, mlp_[i].weight, mlp_[i].bias), freq_));
  }
  // The last map's product the other way around: a channel's taps side by side.
  const Var taps = linear(tape, mlp_.back().weight, h, Var());
  return mul(tape, taps, exp(tape, mul(tape, delta_, lags.t)));
}

Var Hyena::long_filtered(Tape& tape, const Var& w, const Sequences& seqs, const LayerState* state,
                         const PointScope& points) const {
  return run_from_starts(tape, *this, state, "queue", "queue_start", seqs, points,
                         [&](const Sequences& from, const Var& pool) {
                           if (pool) {
                             const Var K =
                                 kept_filter_ ? kept_filter_ : filter(tape, furthest_first_);
                             return causal_conv(tape, w, K, Var(), from, pool, {}, /*silu=*/false);
                           }
                           const int64_t met = std::clamp<int64_t>(from.max_len, 1, config_.l_max);
                           const Lags near = {Var(nearest_first_.features.value().rows(0, met)),
                                              Var(nearest_first_.t.value().columns(0, met))};
                           return long_conv(tape, w, filter(tape, near), from);
                         });
}

Var Hyena::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                   const PointScope& points) const {
  const int64_t d_model = config_.d_model;
  const Var projected =
      points.pass(tape, "in_proj", linear(tape, u, in_proj_.weight, in_proj_.bias));
  const Var conv = convolve(tape, *this, projected, short_filter_.weight, short_filter_.bias, seqs,
                            state, points, /*silu=*/false);
  const std::vector<Var> parts = split(tape, conv, {d_model, d_model, d_model});
  const Var x0 = points.pass(tape, "x0", parts[0]), x1 = points.pass(tape, "x1", parts[1]);
  const Var v = points.pass(tape, "v", parts[2]);
  const Var w = points.pass(tape, "w", mul(tape, v, x1));
  const Var skipped = mul(tape, w, reshape(tape, D_, {1, d_model}));
  const Var y =
      points.pass(tape, "y", add(tape, long_filtered(tape, w, seqs, state, points), skipped));
  const Var gated = points.pass(tape, "gated", mul(tape, y, x0));
  return points.pass(tape, "out", linear(tape, gated, out_proj_.weight, out_proj_.bias));
}

LayerState Hyena::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const auto part = [&](const char* name, int64_t rows, int64_t channels) -> StatePart {
    return {name, Var(device.zeros(dtype_, {slots, rows, channels}), needs_grad)};
  };
  LayerState state;
  state.parts.push_back(part("conv", kShortTaps - 1, 3 * config_.d_model));
  state.parts.push_back(part("queue", config_.l_max - 1, config_.d_model));
  return state;
}

std::vector<PointInfo> Hyena::points() const {
  std::vector<PointInfo> list = {{"in_proj"}};
  for (PointInfo& point : convolution_points(kShortTaps)) list.push_back(std::move(point));
  for (const char* name : {"x0", "x1", "v", "w"}) list.push_back({name});
  list.push_back({"queue_start", PointInfo::Axis::sequence});
  for (const char* name : {"y", "gated", "out"}) list.push_back({name});
  return list;
}

}  // namespace elapse

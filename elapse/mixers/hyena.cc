// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/hyena.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/state_space.h"
#include "elapse/core/error.h"
#include "elapse/mixers/convolution.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr int64_t kShortTaps = HyenaConfig::kShortTaps;
constexpr double kLeastBand = 1e-4;
const double kSlowest = std::log(0.01) / 1.5, kFastest = std::log(0.01) / 0.3;

// Number i of `count` that go evenly from `first` to `last`.
double evenly(double first, double last, int64_t count, int64_t i) {
  if (count == 1) return first;
  return first + (last - first) * static_cast<double>(i) / static_cast<double>(count - 1);
}

// (rows, columns) of value(row, column), not rounded further: these are no parameters.
template <class T, class Of>
Var table_of(Device& device, const Shape& shape, Of&& value) {
  std::vector<T> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    values[i] = static_cast<T>(value(at / shape[1], at % shape[1]));
  }
  return Var(device.upload(values, shape));
}
template <class Of>
Var table(Device& device, DType dtype, const Shape& shape, Of&& value) {
  return dtype == DType::f64 ? table_of<double>(device, shape, value)
                             : table_of<float>(device, shape, value);
}

}  // namespace

Hyena::Hyena(Device& device, const HyenaConfig& config, int64_t n_layers, DType dtype,
             const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model, order = config.filter_order;
  const int64_t most = HyenaConfig::most_lags(d_model, config.emb_dim);
  ELAPSE_CHECK(config.l_max >= 2 && config.l_max <= most, "l_max: expected 2 to {}, found {}", most,
               config.l_max);
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  const auto add_layer = [&](const std::string& name, Shape weight, Use use, double bound) {
    Linear layer;
    layer.weight = add.uniform(name + ".weight", weight, use, bound);
    layer.bias = add.uniform(name + ".bias", {weight[0]}, Use::other, bound);
    return layer;
  };
  in_proj_ = add_layer("in_proj", {3 * d_model, d_model}, Use::matrix, linear_bound(d_model));
  short_filter_ = add_layer("short_filter", {3 * d_model, 1, kShortTaps}, Use::convolution,
                            linear_bound(kShortTaps));
  D_ = add.normal("filter_fn.bias", {d_model}, Use::other);
  const std::string mlp = "filter_fn.implicit_filter.";
  const double order_bound = linear_bound(order);
  mlp_[0] = add_layer(mlp + "0", {order, config.emb_dim}, Use::other, linear_bound(config.emb_dim));
  freq_ = add.constant(mlp + "1.freq", {1, order}, Use::other, config.sine_freq);
  mlp_[1] = add_layer(mlp + "2", {order, order}, Use::other, order_bound);
  mlp_[2] = add_layer(mlp + "4", {order, order}, Use::other, order_bound);
  mlp_[3].weight = add.uniform(mlp + "6.weight", {d_model, order}, Use::other, order_bound);
  out_proj_ =
      add_layer("out_proj", {d_model, d_model}, Use::matrix, linear_bound(d_model * n_layers));

  delta_ = table(device, dtype, {d_model, 1},
                 [&](int64_t e, int64_t) { return evenly(kSlowest, kFastest, d_model, e); });
  nearest_first_ = lags(device, false);
  furthest_first_ = lags(device, true);
  if (filter_is_frozen()) {
    Tape tape(device, false);
    kept_filter_ = filter(tape, furthest_first_);
  }
}

bool Hyena::filter_is_frozen() const {
  return !freq_.needs_grad() && std::none_of(mlp_.begin(), mlp_.end(), [](const Linear& map) {
    return map.weight.needs_grad() || (map.bias && map.bias.needs_grad());
  });
}

Hyena::Lags Hyena::lags(Device& device, bool furthest_first) const {
  const int64_t l_max = config_.l_max, bands = (config_.emb_dim - 1) / 2;
  const auto lag = [=](int64_t row) {
    return static_cast<double>(furthest_first ? l_max - 1 - row : row);
  };
  const auto t = [=](int64_t row) { return lag(row) / static_cast<double>(l_max - 1); };
  const auto feature = [=](int64_t row, int64_t i) {
    if (i == 0) return t(row);
    const double angle = 2 * std::numbers::pi * lag(row) / static_cast<double>(l_max);
    const int64_t band = (i - 1) % bands;
    const double turned = angle * evenly(kLeastBand, static_cast<double>(bands - 1), bands, band);
    return i <= bands ? std::cos(turned) : -std::sin(turned);
  };
  return {table(device, dtype_, {l_max, config_.emb_dim}, feature),
          table(device, dtype_, {1, l_max}, [=](int64_t, int64_t row) { return t(row); })};
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
  const Var D = reshape(tape, cast(tape, D_, w.dtype()), {1, d_model});
  const Var skipped = mul(tape, w, D);
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

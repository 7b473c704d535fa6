// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/linear_attention.h"

#include <cmath>

#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr double kDecayTemperature = 16;  // sigmoid's root
constexpr double kNormaliserEps = 1e-6;   // as the authors' code has it

using Use = ParameterUse;

}  // namespace

LinearAttention::LinearAttention(Device& device, const LinearAttentionConfig& config,
                                 int64_t n_layers, DType dtype, const std::string& prefix,
                                 Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model, keys = config.keys(), d_inner = config.d_inner();
  const bool plain = is(LinearAttentionKind::plain);
  const NewParameters add = {device, dtype, prefix, random, parameters};
  const auto matrix = [&](const char* name, int64_t rows, int64_t columns, double gain) {
    const double xavier = gain * std::sqrt(6 / static_cast<double>(rows + columns));
    return add.uniform(name, {rows, columns}, Use::matrix, plain ? linear_bound(columns) : xavier);
  };
  const double gain = std::exp2(-2.5);
  q_proj_ = matrix("q_proj.weight", keys, d_model, gain);
  k_proj_ = matrix("k_proj.weight", keys, d_model, gain);
  v_proj_ = matrix("v_proj.weight", d_inner, d_model, gain);
  if (!plain) g_proj_ = matrix("g_proj.weight", d_inner, d_model, gain);
  if (is(LinearAttentionKind::gla)) {
    gk_low_ = matrix("gk_proj.0.weight", config.kLowRank, d_model, gain);
    gk_proj_ = matrix("gk_proj.1.weight", keys, config.kLowRank, gain);
    gk_bias_ = add.uniform("gk_proj.1.bias", {keys}, Use::other, linear_bound(config.kLowRank));
    norm_weight_ = add.constant("g_norm.weight", {config.d_v}, Use::other, 1);
  } else {
    log_decay_ = Var(log_decays(device));
    zeros_ = Var(device.zeros(dtype, {config.n_heads}));
    norm_weight_ = filled(device, dtype, {config.d_v}, 1);
  }
  const double rescale = std::sqrt(static_cast<double>(n_layers));
  const double out = plain ? linear_bound(d_inner) / rescale
                           : std::sqrt(6 / static_cast<double>(d_model + d_inner)) / 2 / rescale;
  o_proj_ = add.uniform("o_proj.weight", {d_model, d_inner}, Use::matrix, out);
}

// Of each head, not rounded: these are no parameters.
Tensor LinearAttention::log_decays(Device& device) const {
  std::vector<double> values(static_cast<size_t>(config_.n_heads), 0.0);
  for (size_t i = 0; i < values.size() && is(LinearAttentionKind::retnet); ++i) {
    values[i] = std::log1p(-std::exp2(-5 - static_cast<double>(i)));
  }
  const Shape shape = {config_.n_heads};
  if (dtype_ == DType::f64) return device.upload(values, shape);
  return device.upload(std::vector<float>(values.begin(), values.end()), shape);
}

Var LinearAttention::forward(Tape& tape, const Var& u, const Sequences& seqs,
                             const LayerState* state, const PointScope& points) const {
  const bool plain = is(LinearAttentionKind::plain);
  const auto projected = [&](const char* name, const Var& weight, bool is_key) {
    const Var x = linear(tape, u, weight, Var());
    return points.pass(tape, name, plain && is_key ? elu_plus_one(tape, x) : x);
  };
  const Heads heads = {projected("q", q_proj_, true), projected("k", k_proj_, true),
                       projected("v", v_proj_, false)};
  const Memory names = {"h", "h_start", plain ? nullptr : "decay", "write", "h", "readout_h"};
  const Var sums = is(LinearAttentionKind::gla)
                       ? chosen_decay(tape, heads, u, seqs, state, points)
                       : fixed_decay(tape, names, heads, seqs, state, points);
  const Var readout = points.pass(tape, "readout", sums);
  const Var y = plain ? normalised(tape, heads, readout, seqs, state, points)
                      : gated(tape, readout, u, points);
  return points.pass(tape, "out", linear(tape, y, o_proj_, Var()));
}

// Mamba-2's dual has this recurrence: x is v, B is k and C is q, a group for each head, and dt,
// which its limits hold at 1, leaves exp(A) as the decay.
Var LinearAttention::fixed_decay(Tape& tape, const Memory& names, const Heads& heads,
                                 const Sequences& seqs, const LayerState* state,
                                 const PointScope& points) const {
  const SsdVars in = {
      .x = heads.v,
      .dt_raw = filled(tape.device(), heads.v.dtype(), {seqs.tokens, config_.n_heads}, 0),
      .dt_bias = zeros_,
      .A = log_decay_,
      .B = heads.k,
      .C = heads.q,
      .D = zeros_};
  const SsdNumbers numbers = {config_.n_heads, 1, 1};
  SsdTaps taps;
  if (points.looks()) {
    const SsdInputs shapes = in.inputs(numbers, seqs);
    const auto look = [&](SsdPoint p, const char* name) {
      if (name != nullptr) tap(taps, p) = points.tap(tape, name, dtype_, shapes.point_shape(p));
    };
    look(SsdPoint::decay, names.decay);
    look(SsdPoint::write, names.write);
    look(SsdPoint::h, names.h);
    look(SsdPoint::readout_h, names.readout_h);
  }
  return run_from_starts(tape, *this, state, names.part, names.start, seqs, points,
                         [&](const Sequences& from, const Var& pool) {
                           return ssd(tape, in, numbers, from, pool, taps);
                         });
}

Var LinearAttention::chosen_decay(Tape& tape, const Heads& heads, const Var& u,
                                  const Sequences& seqs, const LayerState* state,
                                  const PointScope& points) const {
  const Var low = points.pass(tape, "decay_low", linear(tape, u, gk_low_, Var()));
  const Var pre = points.pass(tape, "decay_pre", linear(tape, low, gk_proj_, gk_bias_));
  const Var temperature = filled(tape.device(), pre.dtype(), {1, 1}, 1 / kDecayTemperature);
  const GlaVars in = {heads.q, heads.k, heads.v, mul(tape, log_sigmoid(tape, pre), temperature)};
  GlaTaps taps;
  if (points.looks()) {
    const GlaInputs shapes = in.inputs(config_.n_heads, seqs);
    taps.decay = points.tap(tape, "decay", dtype_, shapes.decay_shape());
    taps.write = points.tap(tape, "write", dtype_, shapes.states_shape());
    taps.h = points.tap(tape, "h", dtype_, shapes.states_shape());
    taps.readout_h = points.tap(tape, "readout_h", dtype_, shapes.states_shape());
  }
  return run_from_starts(tape, *this, state, "h", "h_start", seqs, points,
                         [&](const Sequences& from, const Var& pool) {
                           return gated_linear_attention(tape, in, config_.n_heads, from, pool,
                                                         taps);
                         });
}

// readout / (q z + eps); z is the sum of the keys, which one value of 1 a head remembers.
Var LinearAttention::normalised(Tape& tape, const Heads& heads, const Var& readout,
                                const Sequences& seqs, const LayerState* state,
                                const PointScope& points) const {
  const int64_t rows = seqs.tokens * config_.n_heads;
  const Heads of_ones = {heads.q, heads.k,
                         filled(tape.device(), heads.v.dtype(), {seqs.tokens, config_.n_heads}, 1)};
  const Memory names = {"z", "z_start", nullptr, nullptr, "z", nullptr};
  const Var sum = fixed_decay(tape, names, of_ones, seqs, state, points);
  const Var eps = filled(tape.device(), sum.dtype(), {1, 1}, kNormaliserEps);
  const Var normaliser = points.pass(tape, "normaliser", add(tape, sum, eps));
  const Var share = reshape(tape, reciprocal(tape, normaliser), {rows, 1});
  const Var y = mul(tape, reshape(tape, readout, {rows, config_.d_v}), share);
  return points.pass(tape, "y", reshape(tape, y, {seqs.tokens, config_.d_inner()}));
}

Var LinearAttention::gated(Tape& tape, const Var& readout, const Var& u,
                           const PointScope& points) const {
  const Shape channels = readout.value().shape();
  const double eps = config_.norm_eps * static_cast<double>(config_.d_k);
  const Var by_head = reshape(tape, readout, {channels[0] * config_.n_heads, config_.d_v});
  const Var normed = rms_norm(tape, by_head, Var(), norm_weight_, eps).y;
  const Var norm = points.pass(tape, "norm", reshape(tape, normed, channels));
  const Var g = points.pass(tape, "g", linear(tape, u, g_proj_, Var()));
  const Var gate = points.pass(tape, "gate", silu(tape, g));
  return points.pass(tape, "gated", mul(tape, gate, norm));
}

LayerState LinearAttention::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const Shape h = {slots, config_.d_inner(), config_.d_k},
              z = {slots, config_.n_heads, config_.d_k};
  LayerState state;
  state.parts.push_back({"h", Var(device.zeros(dtype_, h), needs_grad)});
  if (is(LinearAttentionKind::plain)) {
    state.parts.push_back({"z", Var(device.zeros(dtype_, z), needs_grad)});
  }
  return state;
}

std::vector<PointInfo> LinearAttention::points() const {
  constexpr auto kSequence = PointInfo::Axis::sequence;
  std::vector<PointInfo> list = {{"q"}, {"k"}, {"v"}};
  const auto add = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) list.push_back({name});
  };
  const bool plain = is(LinearAttentionKind::plain);
  if (is(LinearAttentionKind::gla)) add({"decay_low", "decay_pre"});
  list.push_back({"h_start", kSequence});
  if (!plain) add({"decay"});
  add({"write", "h", "readout_h", "readout"});
  if (plain) {
    list.push_back({"z_start", kSequence});
    add({"z", "normaliser", "y"});
  } else {
    add({"norm", "g", "gate", "gated"});
  }
  list.push_back({"out"});
  return list;
}

}  // namespace elapse

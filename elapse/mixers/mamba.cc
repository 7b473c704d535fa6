// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/mamba.h"

#include <array>
#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/mixers/convolution.h"
#include "elapse/mixers/start.h"
#include "elapse/ops/linear.h"
#include "elapse/ops/mamba_step.h"

namespace elapse {
namespace {

// What the scan, which always has a z, is given where there is none: silu(64) is 64 to the last bit
// in every dtype, and dividing by it rounds nothing.
constexpr double kOpen = 64;

}  // namespace

Mamba::Mamba(Device& device, const MambaConfig& config, int64_t n_layers, DType dtype,
             const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model, d_inner = config.d_inner, d_state = config.d_state;
  const int64_t d_conv = config.d_conv, dt_rank = config.dt_rank;
  const int64_t in_rows = config.gate ? 2 * d_inner : d_inner;
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  // A = -(1, ..., d_state) in every channel ("S4D-real").
  A_log_ = add.drawn("A_log", {d_inner, d_state}, Use::other, [d_state, i = int64_t{0}]() mutable {
    return std::log(static_cast<double>(i++ % d_state + 1));
  });
  D_ = add.constant("D", {d_inner}, Use::other, 1);
  in_proj_ = add.uniform("in_proj.weight", {in_rows, d_model}, Use::matrix, linear_bound(d_model));
  if (config.bias) in_proj_bias_ = add.constant("in_proj.bias", {in_rows}, Use::other, 0);
  conv_weight_ =
      add.uniform("conv1d.weight", {d_inner, 1, d_conv}, Use::convolution, linear_bound(d_conv));
  if (config.conv_bias) {
    conv_bias_ = add.uniform("conv1d.bias", {d_inner}, Use::other, linear_bound(d_conv));
  }
  if (config.selective_rows() > 0) {
    x_proj_ = add.uniform("x_proj.weight", {config.selective_rows(), d_inner}, Use::matrix,
                          linear_bound(d_inner));
  }
  if (config.selective_dt) {
    dt_proj_ =
        add.uniform("dt_proj.weight", {d_inner, dt_rank}, Use::matrix, linear_bound(dt_rank));
  }
  dt_bias_ =
      add.drawn("dt_proj.bias", {d_inner}, Use::other, [&] { return dt_bias_start(random); });
  // As S4D starts them (Gu et al., 2022, "On the parameterization and initialization of diagonal
  // state space models").
  if (!config.selective_B) B_ = add.constant("B", {d_state}, Use::other, 1);
  if (!config.selective_C) C_ = add.normal("C", {d_state}, Use::other);
  out_proj_ = add.uniform("out_proj.weight", {d_model, d_inner}, Use::matrix,
                          linear_bound(d_inner) / std::sqrt(static_cast<double>(n_layers)));
  if (config.bias) out_proj_bias_ = add.constant("out_proj.bias", {d_model}, Use::other, 0);
  if (!A_log_.needs_grad()) {
    Tape tape(device, false);
    frozen_A_ = neg_exp(tape, A_log_);
  }
  if (config.norm_eps > 0) {
    dt_ones_ = filled(device, dtype, {dt_rank}, 1);
    state_ones_ = filled(device, dtype, {d_state}, 1);
  }
}

Var Mamba::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                   const PointScope& points) const {
  if (is_step(tape, u, seqs, state, points)) {
    return linear(tape, step(tape, u, seqs, *state), out_proj_, out_proj_bias_);
  }
  const Var in = linear(tape, u, in_proj_, in_proj_bias_);
  std::vector<Var> halves = {in, Var()};
  if (config_.gate) halves = split(tape, in, {config_.d_inner, config_.d_inner});
  const Var in_x = points.pass(tape, "in_x", halves[0]);
  const Var in_z = config_.gate ? points.pass(tape, "in_z", halves[1])
                                : filled(tape.device(), in.dtype(), in.shape(), kOpen);
  const Var x = points.pass(
      tape, "x", convolve(tape, *this, in_x, conv_weight_, conv_bias_, seqs, state, points));
  Var scanned = scan(tape, x, in_z, seqs, state, points);
  if (!config_.gate) {
    scanned = mul(tape, scanned, filled(tape.device(), in.dtype(), {1, 1}, 1 / kOpen));
  }
  const Var gated = points.pass(tape, "gated", scanned);
  return points.pass(tape, "out", linear(tape, gated, out_proj_, out_proj_bias_));
}

bool Mamba::is_step(const Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                    const PointScope& points) const {
  const bool is_plain = config_.selective_dt && config_.selective_B && config_.selective_C &&
                        config_.gate && config_.norm_eps == 0;
  return is_plain && state != nullptr && !tape.recording() && !points.looks() &&
         seqs.max_len == 1 && seqs.tokens == seqs.count() && !tape.device().host_memory() &&
         tape.device().has(u.dtype(), Op::mamba_step);
}

Var Mamba::step(Tape& tape, const Var& u, const Sequences& seqs, const LayerState& state) const {
  const auto value_of = [](const Var& v) { return v ? v.value() : Tensor(); };
  Device& device = tape.device();
  const Tensor gated = device.empty(u.dtype(), {seqs.tokens, config_.d_inner});
  mamba_step(device,
             {.u = u.value(),
              .in_proj = in_proj_.value(),
              .in_proj_bias = value_of(in_proj_bias_),
              .conv_weight = conv_weight_.value().reshape({config_.d_inner, config_.d_conv}),
              .conv_bias = value_of(conv_bias_),
              .x_proj = x_proj_.value(),
              .dt_proj = dt_proj_.value(),
              .dt_bias = dt_bias_.value(),
              .A = A(tape).value(),
              .D = D_.value(),
              .seqs = seqs,
              .conv_pool = state.part("conv").value(),
              .state_pool = state.part("h").value(),
              .gated = gated});
  return Var(gated);
}

Var Mamba::A(Tape& tape) const { return frozen_A_ ? frozen_A_ : neg_exp(tape, A_log_); }

// A row (columns) for every token.
Var Mamba::same_at(Tape& tape, int64_t tokens, const Var& constant) const {
  const int64_t columns = constant.dim(0);
  return add(tape, Var(tape.device().zeros(dtype_, {tokens, columns})),
             reshape(tape, constant, {1, columns}));
}

Mamba::Selection Mamba::select(Tape& tape, const Var& x, const PointScope& points) const {
  const int64_t tokens = x.dim(0);
  std::vector<int64_t> widths;
  if (config_.selective_dt) widths.push_back(config_.dt_rank);
  if (config_.selective_B) widths.push_back(config_.d_state);
  if (config_.selective_C) widths.push_back(config_.d_state);
  std::vector<Var> parts;
  if (x_proj_) parts = split(tape, linear(tape, x, x_proj_, Var()), widths);
  auto next = parts.begin();
  Selection s;
  if (config_.selective_dt) {
    s.dt_low = points.pass(tape, "dt_low", normed(tape, *next++, dt_ones_));
    s.dt_raw = linear(tape, s.dt_low, dt_proj_, Var());
  } else {
    s.dt_raw = Var(tape.device().zeros(x.dtype(), {tokens, config_.d_inner}));
  }
  const auto row = [&](const Var& constant) {
    return constant ? cast(tape, same_at(tape, tokens, constant), x.dtype())
                    : normed(tape, *next++, state_ones_);
  };
  s.B = points.pass(tape, "B", row(B_));
  s.C = points.pass(tape, "C", row(C_));
  return s;
}

Var Mamba::scan(Tape& tape, const Var& x, const Var& z, const Sequences& seqs,
                const LayerState* state, const PointScope& points) const {
  const Selection selection = select(tape, x, points);
  const ScanVars in = {.x = x,
                       .dt_raw = selection.dt_raw,
                       .dt_bias = dt_bias_,
                       .A = points.pass(tape, "A", A(tape)),
                       .B = selection.B,
                       .C = selection.C,
                       .D = D_,
                       .z = z};
  const ScanTaps taps = scan_taps(tape, seqs.tokens, points);
  const Var out = run_from_starts(tape, *this, state, "h", "h_start", seqs, points,
                                  [&](const Sequences& from, const Var& pool) {
                                    return selective_scan(tape, in, from, pool, taps);
                                  });
  // An eighth of what a layer keeps for backward, at a hundredth of its work: for devices whose
  // memory is what decides how much they can train.
  if (out.needs_grad() && selection.dt_low && !tape.device().host_memory()) {
    selection.dt_raw.make_value_again([&device = tape.device(), low = selection.dt_low,
                                       weight = dt_proj_, shape = selection.dt_raw.shape()] {
      const Tensor again = device.empty(low.dtype(), shape);
      linear_forward(device, {low.value(), weight.value(), {}, again});
      return again;
    });
  }
  return out;
}

// dt_low, B or C as the scan takes it; `ones` is empty where it is not normed.
Var Mamba::normed(Tape& tape, const Var& part, const Var& ones) const {
  return ones ? rms_norm(tape, part, Var(), ones, config_.norm_eps).y : part;
}

namespace {

constexpr std::array<const char*, static_cast<size_t>(ScanPoint::count)> kScanPointNames = {
    "dt_pre", "dt", "decay", "B_bar", "write", "h", "readout_h", "y", "ssm_out", "gate"};

}  // namespace

ScanTaps Mamba::scan_taps(Tape& tape, int64_t tokens, const PointScope& points) const {
  if (!points.looks()) return {};
  const Shape channels = {tokens, config_.d_inner};
  const Shape states = {tokens, config_.d_inner, config_.d_state};
  ScanTaps taps;
  for (size_t i = 0; i < taps.size(); ++i) {
    if (!config_.gate && static_cast<ScanPoint>(i) == ScanPoint::gate) continue;
    const bool state = is_per_state(static_cast<ScanPoint>(i));
    taps[i] = points.tap(tape, kScanPointNames[i], dtype_, state ? states : channels);
  }
  return taps;
}

LayerState Mamba::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const auto [d_inner, d_state] = std::pair(config_.d_inner, config_.d_state);
  LayerState state;
  state.parts.push_back(
      {"conv", Var(device.zeros(dtype_, {slots, config_.d_conv - 1, d_inner}), needs_grad)});
  state.parts.push_back({"h", Var(device.zeros(dtype_, {slots, d_inner, d_state}), needs_grad)});
  return state;
}

std::vector<PointInfo> Mamba::points() const {
  using Axis = PointInfo::Axis;
  std::vector<PointInfo> list = {{"in_x"}};
  if (config_.gate) list.push_back({"in_z"});
  for (PointInfo& point : convolution_points(config_.d_conv)) list.push_back(std::move(point));
  list.push_back({"x"});
  if (config_.selective_dt) list.push_back({"dt_low"});
  list.push_back({"A", Axis::none});
  for (const char* name : {"B", "C"}) list.push_back({name});
  list.push_back({"h_start", Axis::sequence});
  for (const std::string_view name : kScanPointNames) {
    if (config_.gate || name != "gate") list.push_back({std::string(name)});
  }
  list.push_back({"gated"});
  list.push_back({"out"});
  return list;
}

}  // namespace elapse

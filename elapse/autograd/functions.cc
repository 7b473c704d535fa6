// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/functions.h"

#include <algorithm>
#include <numeric>

#include "elapse/autograd/compositions.h"
#include "elapse/ops/linear.h"
#include "elapse/ops/rows.h"

namespace elapse {
namespace {

// The gradient that reached x, or zeros.
Tensor grad_or_zeros(Tape& tape, const Var& x) {
  return x.grad() ? x.grad() : tape.device().zeros(x.dtype(), x.shape());
}

Tensor in_dtype(Device& device, const Tensor& t, DType dtype) {
  if (t.dtype() == dtype) return t;
  const Tensor other = device.empty(dtype, t.shape());
  copy(device, {t, other});
  return other;
}

// What a backward needs of a tap: nothing is watched there.
Tap backward_of(Tap tap) {
  tap.watch = {};
  return tap;
}

// Compositions have no taps.
bool is_active(const Tap& tap) { return tap.is_active_forward() || tap.is_active_backward(); }

template <class Taps>
bool any_active(const Taps& taps) {
  return std::any_of(taps.begin(), taps.end(), [](const Tap& t) { return is_active(t); });
}

template <class Function>
void assign_grad(Tape& tape, const Var& x, Function&& write) {
  if (!x.needs_grad()) return;
  AssignedGrad dx(tape, x);
  write(dx.tensor());
  dx.commit();
}

Var unary(Tape& tape, Unary function, const Var& x) {
  Device& device = tape.device();
  const Var y = tape.result(device.empty(x.dtype(), x.shape()), {&x});
  unary_forward(device, {function, x.value(), y.value()});
  tape.record(y, [&tape, function, x, y] {
    assign_grad(tape, x, [&](const Tensor& dx) {
      unary_backward(tape.device(), {function, x.value(), y.grad(), dx});
    });
  });
  return y;
}

Shape broadcast_shape(const Tensor& a, const Tensor& b) {
  Shape shape = a.shape();
  for (int i = 0; i < shape.rank() && b.shape().rank() == shape.rank(); ++i) {
    shape.set(i, std::max(a.dim(i), b.dim(i)));
  }
  return shape;
}

// The gradient of one side of a product or sum: dout (times `other`), summed where x broadcast.
void broadcast_backward(Tape& tape, const Var& x, const Tensor& dout, const Tensor& other) {
  Device& device = tape.device();
  assign_grad(tape, x, [&](const Tensor& dx) {
    const bool broadcast = x.shape() != dout.shape();
    if (!other) return broadcast ? sum_to(device, {dout, dx}) : copy(device, {dout, dx});
    const Tensor full = broadcast ? device.empty(x.dtype(), dout.shape()) : dx;
    binary(device, {BinaryFunction::mul, dout, other, full});
    if (broadcast) sum_to(device, {full, dx});
  });
}

}  // namespace

Var gather_rows(Tape& tape, const Var& table, const Tensor& index) {
  Device& device = tape.device();
  const DType dtype = table.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Var out = tape.result(device.empty(dtype, {index.numel(), table.dim(1)}), {&table});
  gather_rows(device, GatherRows{table.value(), index, out.value()});
  tape.record(out, [&tape, table, index, out] {
    scatter_add_rows(tape.device(), {out.grad(), index, tape.accumulated_grad(table)});
  });
  return out;
}

Var concat_rows(Tape& tape, const std::vector<Var>& parts) {
  Device& device = tape.device();
  int64_t rows = 0;
  bool needs_grad = false;
  for (const Var& part : parts) {
    rows += part.dim(0);
    needs_grad = needs_grad || part.needs_grad();
  }
  const Var out(device.empty(parts.front().dtype(), {rows, parts.front().dim(1)}),
                needs_grad && tape.recording());
  int64_t row = 0;
  for (const Var& part : parts) {
    copy(device, {part.value(), out.value().rows(row, row + part.dim(0))});
    row += part.dim(0);
  }
  tape.record(out, [&tape, parts, out] {
    int64_t begin = 0;
    for (const Var& part : parts) {
      const Tensor dpart = out.grad().rows(begin, begin + part.dim(0));
      assign_grad(tape, part, [&](const Tensor& dx) { copy(tape.device(), {dpart, dx}); });
      begin += part.dim(0);
    }
  });
  return out;
}

Var slice_rows(Tape& tape, const Var& x, int64_t begin, int64_t end) {
  const Var out = tape.result(x.value().rows(begin, end), {&x});
  tape.record(out, [&tape, x, out, begin, end] {
    const Tensor dx = tape.accumulated_grad(x).rows(begin, end);
    binary(tape.device(), {BinaryFunction::add, dx, out.grad(), dx});
  });
  return out;
}

std::vector<Var> split(Tape& tape, const Var& x, const std::vector<int64_t>& widths) {
  ELAPSE_CHECK(std::accumulate(widths.begin(), widths.end(), int64_t{0}) == x.dim(1),
               "split: the widths do not add up to the {} columns of x", x.dim(1));
  std::vector<Var> parts;
  int64_t begin = 0;
  for (int64_t width : widths) {
    parts.push_back(tape.columns(x, begin, begin + width));
    begin += width;
  }
  tape.record(parts, [&tape, parts] {
    for (const Var& part : parts) {
      if (part.grad()) continue;
      assign_grad(tape, part, [&](const Tensor& dx) { fill(tape.device(), {dx, 0}); });
    }
  });
  return parts;
}

Var linear(Tape& tape, const Var& x, const Var& weight, const Var& bias, bool wide) {
  Device& device = tape.device();
  const DType dtype = wide ? wide_dtype(x.dtype()) : x.dtype();
  const Var y = tape.result(device.empty(dtype, {x.dim(0), weight.dim(0)}), {&x, &weight, &bias});
  const Tensor bias_value = bias ? bias.value() : Tensor();
  linear_forward(device, {x.value(), weight.value(), bias_value, y.value()});
  // What a step holds on to is copied: where nothing needs a gradient, as in decoding, it would
  // show.
  if (!y.needs_grad()) return y;
  tape.record(y, [&tape, x, weight, bias, y] {
    const Tensor dy = in_dtype(tape.device(), y.grad(), x.dtype());
    const Tensor dbias = bias.needs_grad() ? tape.accumulated_grad(bias) : Tensor();
    if (x.needs_grad() && x.grad()) {
      linear_backward_input(tape.device(), {dy, weight.value(), x.grad(), /*adds=*/true});
    } else {
      assign_grad(tape, x, [&](const Tensor& dx) {
        linear_backward_input(tape.device(), {dy, weight.value(), dx});
      });
    }
    if (weight.needs_grad() || dbias) {
      linear_backward_weight(tape.device(), {dy, x.value(), tape.accumulated_grad(weight), dbias});
    }
  });
  return y;
}

Var linear_transposed(Tape& tape, const Var& x, const Var& weight) {
  Device& device = tape.device();
  const Var y = tape.result(device.empty(x.dtype(), {x.dim(0), weight.dim(1)}), {&x, &weight});
  linear_backward_input(device, {x.value(), weight.value(), y.value()});
  tape.record(y, [&tape, x, weight, y] {
    assign_grad(tape, x, [&](const Tensor& dx) {
      linear_forward(tape.device(), {y.grad(), weight.value(), Tensor(), dx});
    });
    if (weight.needs_grad()) {
      linear_backward_weight(tape.device(),
                             {x.value(), y.grad(), tape.accumulated_grad(weight), Tensor()});
    }
  });
  return y;
}

Var exp(Tape& tape, const Var& x) { return unary(tape, Unary::exp, x); }
Var neg_exp(Tape& tape, const Var& x) { return unary(tape, Unary::neg_exp, x); }
Var relu(Tape& tape, const Var& x) { return unary(tape, Unary::relu, x); }
Var silu(Tape& tape, const Var& x) { return unary(tape, Unary::silu, x); }
Var softplus(Tape& tape, const Var& x) { return unary(tape, Unary::softplus, x); }
Var gelu(Tape& tape, const Var& x) { return unary(tape, Unary::gelu, x); }
Var sigmoid(Tape& tape, const Var& x) { return unary(tape, Unary::sigmoid, x); }
Var gelu_tanh(Tape& tape, const Var& x) { return unary(tape, Unary::gelu_tanh, x); }

Var swiglu(Tape& tape, const Var& a, const Var& b) {
  Device& device = tape.device();
  const Var y = tape.result(device.empty(a.dtype(), a.shape()), {&a, &b});
  swiglu_forward(device, {a.value(), b.value(), y.value()});
  tape.record(y, [&tape, a, b, y] {
    AssignedGrad da(tape, a), db(tape, b);
    swiglu_backward(tape.device(), {a.value(), b.value(), y.grad(), da.tensor(), db.tensor()});
    da.commit();
    db.commit();
  });
  return y;
}
Var tanh(Tape& tape, const Var& x) { return unary(tape, Unary::tanh, x); }
Var log_sigmoid(Tape& tape, const Var& x) { return unary(tape, Unary::log_sigmoid, x); }
Var elu_plus_one(Tape& tape, const Var& x) { return unary(tape, Unary::elu_plus_one, x); }
Var reciprocal(Tape& tape, const Var& x) { return unary(tape, Unary::reciprocal, x); }
Var sine(Tape& tape, const Var& x) { return unary(tape, Unary::sine, x); }

Var add(Tape& tape, const Var& a, const Var& b) {
  Device& device = tape.device();
  const Shape shape = broadcast_shape(a.value(), b.value());
  const Var out = tape.result(device.empty(a.dtype(), shape), {&a, &b});
  binary(device, {BinaryFunction::add, a.value(), b.value(), out.value()});
  tape.record(out, [&tape, a, b, out] {
    broadcast_backward(tape, a, out.grad(), {});
    broadcast_backward(tape, b, out.grad(), {});
  });
  return out;
}

Var mul(Tape& tape, const Var& a, const Var& b) {
  Device& device = tape.device();
  const Shape shape = broadcast_shape(a.value(), b.value());
  const Var out = tape.result(device.empty(a.dtype(), shape), {&a, &b});
  binary(device, {BinaryFunction::mul, a.value(), b.value(), out.value()});
  tape.record(out, [&tape, a, b, out] {
    broadcast_backward(tape, a, out.grad(), b.value());
    broadcast_backward(tape, b, out.grad(), a.value());
  });
  return out;
}

Var sum_last(Tape& tape, const Var& x) {
  Device& device = tape.device();
  Shape shape = x.shape();
  shape.set(-1, 1);
  const Var out = tape.result(device.empty(x.dtype(), shape), {&x});
  sum_to(device, {x.value(), out.value()});
  tape.record(out, [&tape, x, out] {
    assign_grad(tape, x, [&](const Tensor& dx) {
      const Tensor zeros = tape.device().zeros(x.dtype(), x.shape());
      binary(tape.device(), {BinaryFunction::add, zeros, out.grad(), dx});
    });
  });
  return out;
}

Var reshape(Tape& tape, const Var& x, Shape shape) {
  const Var out = tape.result(x.value().reshape(shape), {&x});
  tape.record(out, [&tape, x, out] {
    assign_grad(tape, x, [&](const Tensor& dx) {
      copy(tape.device(), {out.grad().reshape(x.shape()), dx});
    });
  });
  return out;
}

Var copy_of(Tape& tape, const Var& x) {
  const Var out = tape.result(tape.device().empty(x.dtype(), x.shape()), {&x});
  copy(tape.device(), {x.value(), out.value()});
  tape.record(out, [&tape, x, out] {
    assign_grad(tape, x, [&](const Tensor& dx) { copy(tape.device(), {out.grad(), dx}); });
  });
  return out;
}

Var cast(Tape& tape, const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Var out = tape.result(in_dtype(tape.device(), x.value(), dtype), {&x});
  tape.record(out, [&tape, x, out] {
    assign_grad(tape, x, [&](const Tensor& dx) { copy(tape.device(), {out.grad(), dx}); });
  });
  return out;
}

Var through(Tape& tape, const Var& x, const Tap& tap) {
  Device& device = tape.device();
  const Tensor edited = tap.is_edited() ? device.empty(x.dtype(), x.shape()) : Tensor();
  if (tap.is_active_forward()) tap_forward(device, {x.value(), tap, edited});
  if (!tap.is_active_backward()) return x;
  const Tensor value = edited ? edited : x.value();
  // A gradient that is asked for is taken even of what nothing before it needs one of.
  const Var out = tap.gradient && tape.recording() ? Var(value, true) : tape.result(value, {&x});
  tape.record(out, [&tape, x, out, tap = backward_of(tap)] {
    AssignedGrad dx(tape, x);
    tap_backward(tape.device(), {out.grad(), tap, dx.tensor()});
    dx.commit();
  });
  return out;
}

Normed rms_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, double eps,
                const Tap& scale_tap, std::optional<DType> dtype) {
  Device& device = tape.device();
  const Shape shape = x.shape();
  const DType wide = wide_dtype(x.dtype());
  const Var sum = residual ? tape.result(device.empty(wide, shape), {&x, &residual}) : x;
  const Var y = tape.result(device.empty(dtype.value_or(x.dtype()), shape), {&sum, &weight});
  const Tensor scale = device.empty(wide, {shape[0], 1});
  rms_norm_forward(device, {.x = x.value(),
                            .residual = residual ? residual.value() : Tensor(),
                            .weight = weight.value(),
                            .eps = eps,
                            .sum = residual ? sum.value() : Tensor(),
                            .scale = scale,
                            .y = y.value(),
                            .scale_tap = scale_tap});
  if (!y.needs_grad()) return {sum, y};
  tape.record({sum, y}, [&tape, x, residual, weight, eps, scale_tap, sum, y, scale] {
    const bool fused = bool(residual), casts = x.dtype() != sum.dtype();
    AssignedGrad dx(tape, x);
    std::optional<AssignedGrad> dresidual;
    if (casts) dresidual.emplace(tape, residual);
    rms_norm_backward(tape.device(), {.dy = grad_or_zeros(tape, y),
                                      .dsum = fused ? grad_or_zeros(tape, sum) : Tensor(),
                                      .sum = sum.value(),
                                      .weight = weight.value(),
                                      .scale = scale,
                                      .eps = eps,
                                      .scale_tap = scale_tap,
                                      .dsum_total = casts ? dresidual->tensor() : dx.tensor(),
                                      .dx = casts ? dx.tensor() : Tensor(),
                                      .dweight = tape.accumulated_grad(weight)});
    dx.commit();
    if (casts) return dresidual->commit();
    if (!fused) return;
    assign_grad(tape, residual, [&](const Tensor& dr) { copy(tape.device(), {dx.tensor(), dr}); });
  });
  return {sum, y};
}

Normed layer_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, const Var& bias,
                  double eps, const Tap& scale_tap, std::optional<DType> dtype) {
  Device& device = tape.device();
  const Shape shape = x.shape();
  const DType wide = wide_dtype(x.dtype());
  const Var sum = residual ? tape.result(device.empty(wide, shape), {&x, &residual}) : x;
  const Var y = tape.result(device.empty(dtype.value_or(x.dtype()), shape), {&sum, &weight, &bias});
  const Tensor mean = device.empty(wide, {shape[0], 1});
  const Tensor scale = device.empty(wide, {shape[0], 1});
  layer_norm_forward(device, {.x = x.value(),
                              .residual = residual ? residual.value() : Tensor(),
                              .weight = weight.value(),
                              .bias = bias.value(),
                              .eps = eps,
                              .sum = residual ? sum.value() : Tensor(),
                              .mean = mean,
                              .scale = scale,
                              .y = y.value(),
                              .scale_tap = scale_tap});
  if (!y.needs_grad()) return {sum, y};
  tape.record({sum, y}, [&tape, x, residual, weight, bias, eps, scale_tap, sum, y, mean, scale] {
    const bool fused = bool(residual), casts = x.dtype() != sum.dtype();
    AssignedGrad dx(tape, x);
    std::optional<AssignedGrad> dresidual;
    if (casts) dresidual.emplace(tape, residual);
    layer_norm_backward(tape.device(), {.dy = grad_or_zeros(tape, y),
                                        .dsum = fused ? grad_or_zeros(tape, sum) : Tensor(),
                                        .sum = sum.value(),
                                        .weight = weight.value(),
                                        .mean = mean,
                                        .scale = scale,
                                        .eps = eps,
                                        .scale_tap = scale_tap,
                                        .dsum_total = casts ? dresidual->tensor() : dx.tensor(),
                                        .dx = casts ? dx.tensor() : Tensor(),
                                        .dweight = tape.accumulated_grad(weight),
                                        .dbias = tape.accumulated_grad(bias)});
    dx.commit();
    if (casts) return dresidual->commit();
    if (!fused) return;
    assign_grad(tape, residual, [&](const Tensor& dr) { copy(tape.device(), {dx.tensor(), dr}); });
  });
  return {sum, y};
}

Var gated_rms_norm(Tape& tape, const Var& x, const Var& z, const Var& weight, int64_t n_groups,
                   double eps, const GatedNormTaps& taps) {
  Device& device = tape.device();
  const Var y = tape.result(device.empty(x.dtype(), x.shape()), {&x, &z, &weight});
  const Tensor scale = device.empty(wide_dtype(x.dtype()), {x.dim(0), n_groups});
  GatedRmsNormInputs in = {x.value(), z.value(), weight.value(), n_groups,
                           eps,       taps.gate, taps.gated,     taps.scale};
  gated_rms_norm_forward(device, {in, scale, y.value()});
  if (!y.needs_grad()) return y;
  for (Tap* tap : {&in.gate_tap, &in.gated_tap, &in.scale_tap}) *tap = backward_of(*tap);
  tape.record(y, [&tape, x, z, weight, in, scale, y] {
    AssignedGrad dx(tape, x), dz(tape, z);
    gated_rms_norm_backward(tape.device(), {y.grad(), in, scale, dx.tensor(), dz.tensor(),
                                            tape.accumulated_grad(weight)});
    dx.commit();
    dz.commit();
  });
  return y;
}

namespace {

ConvTaps backward_of(ConvTaps taps) {
  for (Tap& t : taps.terms) t = backward_of(t);
  if (!any_active(taps.terms)) taps.terms.clear();  // as if nothing had been watched
  taps.conv = backward_of(taps.conv);
  return taps;
}

}  // namespace

Var causal_conv(Tape& tape, const Var& x, const Var& weight, const Var& bias, const Sequences& seqs,
                const Var& pool, const ConvTaps& taps, bool silu) {
  Device& device = tape.device();
  if (!device.has(x.dtype(), Op::causal_conv_forward) && silu && !pool && !is_active(taps.conv) &&
      !any_active(taps.terms)) {
    return composed_causal_conv(tape, x, weight, bias, seqs);
  }
  const int64_t d_inner = weight.dim(0), d_conv = weight.dim(1);
  const Var y =
      tape.result(device.empty(x.dtype(), {seqs.tokens, d_inner}), {&x, &weight, &bias, &pool});
  const Tensor saved_start =
      y.needs_grad() && pool
          ? device.empty(wide_dtype(x.dtype()), {seqs.count(), d_conv - 1, d_inner})
          : Tensor();
  const Tensor bias_value = bias ? bias.value() : Tensor();
  causal_conv_forward(device, {.x = x.value(),
                               .weight = weight.value(),
                               .bias = bias_value,
                               .seqs = seqs,
                               .pool = pool ? pool.value() : Tensor(),
                               .saved_start = saved_start,
                               .y = y.value(),
                               .taps = taps,
                               .silu = silu});
  if (!y.needs_grad()) return y;
  std::vector<Var> outputs = {y};
  if (pool) outputs.push_back(pool);
  tape.record(outputs, [&tape, x, weight, bias, bias_value, seqs, pool, saved_start, y, silu,
                        taps = backward_of(taps)] {
    AssignedGrad dx(tape, x);
    causal_conv_backward(tape.device(),
                         {.dy = grad_or_zeros(tape, y),
                          .x = x.value(),
                          .weight = weight.value(),
                          .bias = bias_value,
                          .seqs = seqs,
                          .saved_start = saved_start,
                          .taps = taps,
                          .silu = silu,
                          .dx = dx.tensor(),
                          .dweight = tape.accumulated_grad(weight),
                          .dbias = bias ? tape.accumulated_grad(bias) : Tensor(),
                          .dpool = pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor()});
    dx.commit();
  });
  return y;
}

namespace {

ScanTaps backward_of(ScanTaps taps) {
  for (Tap& t : taps) t = backward_of(t);
  return taps;
}

ScanInputs scan_inputs(const ScanVars& in, const Sequences& seqs) {
  return {in.x.value(), in.dt_raw.value(), in.dt_bias.value(), in.A.value(), in.B.value(),
          in.C.value(), in.D.value(),      in.z.value(),       seqs};
}

void scan_backward(Tape& tape, const ScanVars& in, const ScanBackward& forward, const Var& pool) {
  ScanBackward args = forward;
  AssignedGrad dx(tape, in.x), ddt_raw(tape, in.dt_raw), dB(tape, in.B), dC(tape, in.C),
      dz(tape, in.z);
  args.dx = dx.tensor();
  args.ddt_raw = ddt_raw.tensor();
  args.dB = dB.tensor();
  args.dC = dC.tensor();
  args.dz = dz.tensor();
  args.ddt_bias = tape.accumulated_grad(in.dt_bias);
  args.dA = tape.accumulated_grad(in.A);
  args.dD = tape.accumulated_grad(in.D);
  args.dpool = pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor();
  selective_scan_backward(tape.device(), args);
  for (AssignedGrad* grad : {&dx, &ddt_raw, &dB, &dC, &dz}) grad->commit();
}

}  // namespace

Var selective_scan(Tape& tape, const ScanVars& in, const Sequences& seqs, const Var& pool,
                   const ScanTaps& taps) {
  Device& device = tape.device();
  const DType dtype = in.x.dtype();
  if (!device.has(dtype, Op::selective_scan_forward) && !pool && !any_active(taps)) {
    return composed_selective_scan(tape, in, seqs);
  }
  const int64_t d_inner = in.A.dim(0), d_state = in.A.dim(1);
  const Var out =
      tape.result(device.empty(dtype, {seqs.tokens, d_inner}),
                  {&in.x, &in.dt_raw, &in.dt_bias, &in.A, &in.B, &in.C, &in.D, &in.z, &pool});
  const Tensor checkpoints =
      out.needs_grad() ? device.empty(wide_dtype(dtype), {checkpoint_count(seqs), d_inner, d_state})
                       : Tensor();
  selective_scan_forward(device, {.in = scan_inputs(in, seqs),
                                  .pool = pool ? pool.value() : Tensor(),
                                  .checkpoints = checkpoints,
                                  .out = out.value(),
                                  .taps = taps});
  if (!out.needs_grad()) return out;
  std::vector<Var> outputs = {out};
  if (pool) outputs.push_back(pool);
  tape.record(outputs, [&tape, in, seqs, pool, checkpoints, out, later = backward_of(taps)] {
    ScanBackward args{};
    args.dout = grad_or_zeros(tape, out);
    args.in = scan_inputs(in, seqs);
    args.checkpoints = checkpoints;
    args.taps = later;
    scan_backward(tape, in, args, pool);
  });
  return out;
}

namespace {

SsdTaps backward_of(SsdTaps taps) {
  for (Tap& t : taps) t = backward_of(t);
  return taps;
}

void run_ssd_backward(Tape& tape, const SsdVars& in, const SsdBackward& forward, const Var& pool) {
  SsdBackward args = forward;
  AssignedGrad dx(tape, in.x), ddt_raw(tape, in.dt_raw), dB(tape, in.B), dC(tape, in.C);
  args.dx = dx.tensor();
  args.ddt_raw = ddt_raw.tensor();
  args.dB = dB.tensor();
  args.dC = dC.tensor();
  args.ddt_bias = tape.accumulated_grad(in.dt_bias);
  args.dA = tape.accumulated_grad(in.A);
  args.dD = tape.accumulated_grad(in.D);
  args.dpool = pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor();
  ssd_backward(tape.device(), args);
  for (AssignedGrad* grad : {&dx, &ddt_raw, &dB, &dC}) grad->commit();
}

}  // namespace

SsdInputs SsdVars::inputs(const SsdNumbers& numbers, const Sequences& seqs) const {
  return {.x = x.value(),
          .dt_raw = dt_raw.value(),
          .dt_bias = dt_bias.value(),
          .A = A.value(),
          .B = B.value(),
          .C = C.value(),
          .D = D.value(),
          .n_groups = numbers.n_groups,
          .dt_min = numbers.dt_min,
          .dt_max = numbers.dt_max,
          .seqs = seqs};
}

Var ssd(Tape& tape, const SsdVars& in, const SsdNumbers& numbers, const Sequences& seqs,
        const Var& pool, const SsdTaps& taps) {
  Device& device = tape.device();
  const DType dtype = in.x.dtype();
  const SsdInputs inputs = in.inputs(numbers, seqs);
  if (!device.has(dtype, Op::ssd_forward) && !pool && !any_active(taps) && !inputs.limits_dt()) {
    return composed_ssd(tape, in, numbers.n_groups, seqs);
  }
  const Var out = tape.result(device.empty(dtype, {seqs.tokens, inputs.d_inner()}),
                              {&in.x, &in.dt_raw, &in.dt_bias, &in.A, &in.B, &in.C, &in.D, &pool});
  const Tensor checkpoints =
      out.needs_grad() ? device.empty(wide_dtype(dtype), {ssd_checkpoint_count(inputs),
                                                          inputs.d_inner(), inputs.d_state()})
                       : Tensor();
  ssd_forward(device, {.in = inputs,
                       .pool = pool ? pool.value() : Tensor(),
                       .checkpoints = checkpoints,
                       .out = out.value(),
                       .taps = taps});
  if (!out.needs_grad()) return out;
  std::vector<Var> outputs = {out};
  if (pool) outputs.push_back(pool);
  tape.record(outputs, [&tape, in, inputs, pool, checkpoints, out, later = backward_of(taps)] {
    SsdBackward args{};
    args.dout = grad_or_zeros(tape, out);
    args.in = inputs;
    args.checkpoints = checkpoints;
    args.taps = later;
    run_ssd_backward(tape, in, args, pool);
  });
  return out;
}

namespace {

RecurrentTaps backward_of(RecurrentTaps taps) {
  for (Tap& t : taps.gates) t = backward_of(t);
  taps.c = backward_of(taps.c);
  taps.h = backward_of(taps.h);
  return taps;
}

}  // namespace

Var recurrent(Tape& tape, Cell cell, const Var& a, const Var& weight, const Var& bias,
              const Sequences& seqs, const Var& pool, const RecurrentTaps& taps) {
  Device& device = tape.device();
  const int64_t d_inner = weight.dim(1);
  const DType wide = wide_dtype(a.dtype());
  const Var h =
      tape.result(device.empty(a.dtype(), {seqs.tokens, d_inner}), {&a, &weight, &bias, &pool});
  const auto kept = [&](int64_t rows) {
    return h.needs_grad() ? device.empty(wide, {seqs.tokens, rows * d_inner}) : Tensor();
  };
  const Tensor before = kept(state_rows(cell)), inner = kept(inner_rows(cell));
  recurrent_forward(device, {.cell = cell,
                             .a = a.value(),
                             .weight = weight.value(),
                             .bias = bias.value(),
                             .seqs = seqs,
                             .pool = pool ? pool.value() : Tensor(),
                             .before = before,
                             .inner = inner,
                             .h = h.value(),
                             .taps = taps});
  if (!h.needs_grad()) return h;
  std::vector<Var> outputs = {h};
  if (pool) outputs.push_back(pool);
  tape.record(outputs, [&tape, cell, a, weight, bias, seqs, pool, before, inner, h, d_inner, wide,
                        taps = backward_of(taps)] {
    AssignedGrad da(tape, a);
    const Tensor dm = tape.device().empty(wide, {seqs.tokens, gate_count(cell) * d_inner});
    recurrent_backward(tape.device(),
                       {.cell = cell,
                        .dh = grad_or_zeros(tape, h),
                        .weight = weight.value(),
                        .seqs = seqs,
                        .before = before,
                        .inner = inner,
                        .taps = taps,
                        .da = da.tensor(),
                        .dm = dm,
                        .dpool = pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor()});
    da.commit();
    if (!weight.needs_grad() && !bias.needs_grad()) return;
    const Tensor dweight = weight.needs_grad() ? tape.accumulated_grad(weight)
                                               : tape.device().zeros(wide, weight.shape());
    const Tensor dbias = bias.needs_grad() ? tape.accumulated_grad(bias) : Tensor();
    linear_backward_weight(tape.device(), {dm, before.columns(0, d_inner), dweight, dbias});
  });
  return h;
}

Var cross_entropy(Tape& tape, const Var& logits, const Tensor& targets) {
  Device& device = tape.device();
  const Var loss = tape.result(device.empty(logits.dtype(), {1}), {&logits});
  const Tensor logsumexp = device.empty(logits.dtype(), {logits.dim(0)});
  cross_entropy_forward(device, {logits.value(), targets, logsumexp, loss.value()});
  tape.record(loss, [&tape, logits, targets, logsumexp, loss] {
    assign_grad(tape, logits, [&](const Tensor& dlogits) {
      cross_entropy_backward(tape.device(),
                             {loss.grad(), logits.value(), targets, logsumexp, dlogits});
    });
  });
  return loss;
}

Var linear_cross_entropy(Tape& tape, const Var& x, const Var& weight, const Tensor& targets) {
  Device& device = tape.device();
  if (!device.has(x.dtype(), Op::linear_cross_entropy_forward)) {
    return cross_entropy(tape, linear(tape, x, weight, Var(), /*wide=*/true), targets);
  }
  const DType wide = wide_dtype(x.dtype());
  const Var loss = tape.result(device.empty(wide, {1}), {&x, &weight});
  const bool graded = loss.needs_grad();
  const Tensor unit_dx = graded ? device.empty(x.dtype(), x.shape()) : Tensor();
  const Tensor unit_dweight = graded ? device.empty(wide, weight.shape()) : Tensor();
  linear_cross_entropy_forward(
      device, {x.value(), weight.value(), targets, loss.value(), unit_dx, unit_dweight});
  tape.record(loss, [&tape, x, weight, loss, unit_dx, unit_dweight] {
    AssignedGrad dx(tape, x);
    linear_cross_entropy_backward(tape.device(),
                                  {loss.grad(), unit_dx, unit_dweight, dx.tensor(),
                                   weight.needs_grad() ? tape.accumulated_grad(weight) : Tensor()});
    dx.commit();
  });
  return loss;
}

Var recurrence(Tape& tape, const Var& decay, const Var& write, const Sequences& seqs) {
  Device& device = tape.device();
  const Var h = tape.result(device.empty(decay.dtype(), decay.shape()), {&decay, &write});
  recurrence(device, Recurrence{decay.value(), write.value(), seqs, h.value()});
  tape.record(h, [&tape, decay, write, seqs, h] {
    AssignedGrad ddecay(tape, decay), dwrite(tape, write);
    recurrence_backward(tape.device(), {h.grad(), decay.value(), h.value(), seqs, ddecay.tensor(),
                                        dwrite.tensor()});
    ddecay.commit();
    dwrite.commit();
  });
  return h;
}

Var causal_shift(Tape& tape, const Var& x, const Sequences& seqs, int64_t by) {
  Device& device = tape.device();
  const Var out = tape.result(device.empty(x.dtype(), {seqs.tokens, x.dim(1)}), {&x});
  causal_shift(device, CausalShift{x.value(), seqs, by, out.value()});
  tape.record(out, [&tape, x, seqs, by, out] {
    assign_grad(tape, x, [&](const Tensor& dx) {
      causal_shift(tape.device(), CausalShift{out.grad(), seqs, -by, dx});
    });
  });
  return out;
}

namespace {

// Calls visit(sequence, slot) for the sequences that name one.
template <class Visit>
void for_each_slot(const std::vector<int64_t>& slots, Visit&& visit) {
  for (size_t s = 0; s < slots.size(); ++s) {
    if (slots[s] != Sequences::kNoSlot) visit(static_cast<int64_t>(s), slots[s]);
  }
}

Tensor row(const Tensor& t, int64_t i) { return t.rows(i, i + 1); }

}  // namespace

Var load_slots(Tape& tape, const Var& pool, const Sequences& seqs) {
  Device& device = tape.device();
  Shape shape = pool.shape();
  shape.set(0, seqs.count());
  const Var states = tape.result(device.zeros(pool.dtype(), shape), {&pool});
  for_each_slot(seqs.starts, [&](int64_t s, int64_t slot) {
    copy(device, {row(pool.value(), slot), row(states.value(), s)});
  });
  tape.record(states, [&tape, pool, seqs, states] {
    const Tensor dpool = tape.accumulated_grad(pool);
    for_each_slot(seqs.starts, [&](int64_t s, int64_t slot) {
      const Tensor into = row(dpool, slot);
      binary(tape.device(), {BinaryFunction::add, into, row(states.grad(), s), into});
    });
  });
  return states;
}

void store_slots(Tape& tape, const Var& states, const Var& pool, const Sequences& seqs) {
  for_each_slot(seqs.ends, [&](int64_t s, int64_t slot) {
    copy(tape.device(), {row(states.value(), s), row(pool.value(), slot)});
  });
  if (!states.needs_grad()) return;
  tape.record(pool, [&tape, pool, seqs, states] {
    const Tensor dstates = tape.accumulated_grad(states);
    for_each_slot(seqs.ends, [&](int64_t s, int64_t slot) {
      const Tensor from = row(pool.grad(), slot);
      const Tensor into = row(dstates, s);
      binary(tape.device(), {BinaryFunction::add, into, from, into});
      fill(tape.device(), {from, 0});
    });
  });
}

}  // namespace elapse

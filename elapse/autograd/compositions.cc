// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/compositions.h"

namespace elapse {
namespace {

// Column k of a (d_inner, d_conv) weight as a row, by a product with a one-hot vector.
Var tap_weight(Tape& tape, const Var& weight, int64_t k) {
  const Tensor one_hot = tape.device().zeros(weight.dtype(), {1, weight.dim(1)});
  fill(tape.device(), {one_hot.columns(k, k + 1), 1});
  const Var column = sum_last(tape, mul(tape, weight, Var(one_hot)));
  return reshape(tape, column, {1, weight.dim(0)});
}

}  // namespace

Var composed_causal_conv(Tape& tape, const Var& x, const Var& weight, const Var& bias,
                         const Sequences& seqs) {
  const int64_t d_conv = weight.dim(1);
  Var conv;
  for (int64_t k = 0; k < d_conv; ++k) {
    const Var shifted = causal_shift(tape, x, seqs, d_conv - 1 - k);
    const Var term = mul(tape, shifted, tap_weight(tape, weight, k));
    conv = conv ? add(tape, conv, term) : term;
  }
  if (bias) conv = add(tape, conv, reshape(tape, bias, {1, bias.dim(0)}));
  return silu(tape, conv);
}

Var composed_selective_scan(Tape& tape, const ScanVars& in, const Sequences& seqs) {
  const int64_t tokens = seqs.tokens, d_inner = in.A.dim(0), d_state = in.A.dim(1);
  const auto row = [&](const Var& v) { return reshape(tape, v, {1, d_inner}); };
  const auto per_channel = [&](const Var& v) { return reshape(tape, v, {tokens, d_inner, 1}); };
  const auto per_state = [&](const Var& v) {
    return reshape(tape, add(tape, v, Var(tape.device().zeros(v.dtype(), {1, d_state}))),
                   {tokens, 1, d_state});
  };
  const Var dt = softplus(tape, add(tape, in.dt_raw, row(in.dt_bias)));
  const Var decay =
      exp(tape, mul(tape, per_channel(dt), reshape(tape, in.A, {1, d_inner, d_state})));
  const Var write = mul(tape, per_channel(mul(tape, dt, in.x)), per_state(in.B));
  const Var h = recurrence(tape, decay, write, seqs);
  const Var y = reshape(tape, sum_last(tape, mul(tape, h, per_state(in.C))), {tokens, d_inner});
  const Var ssm_out = add(tape, y, mul(tape, row(in.D), in.x));
  return mul(tape, ssm_out, silu(tape, in.z));
}

namespace {

// v (rows, columns) with zeros added to each of `count` copies: (rows, count, columns), contiguous.
Var repeated(Tape& tape, const Var& v, int64_t rows, int64_t count, int64_t columns) {
  const Var zeros(tape.device().zeros(v.dtype(), {1, count, columns}));
  return add(tape, reshape(tape, v, {rows, 1, columns}), zeros);
}

Var contiguous(Tape& tape, const Var& v) {
  return add(tape, v, Var(tape.device().zeros(v.dtype(), {1, v.dim(1)})));
}

}  // namespace

Var composed_ssd(Tape& tape, const SsdVars& in, int64_t n_groups, const Sequences& seqs) {
  const int64_t tokens = seqs.tokens, d_inner = in.x.dim(1), n_heads = in.A.dim(0);
  const int64_t head_dim = d_inner / n_heads, d_state = in.B.dim(1) / n_groups;
  const auto by_head = [&](const Var& v) { return reshape(tape, v, {1, v.dim(0)}); };
  // A group's numbers for each of its heads' channels: (tokens, d_inner, d_state).
  const auto per_state = [&](const Var& v) {
    const Var all =
        repeated(tape, contiguous(tape, v), tokens * n_groups, d_inner / n_groups, d_state);
    return reshape(tape, all, {tokens, d_inner, d_state});
  };
  const auto per_channel = [&](const Var& v) {  // a head's number for each of its channels
    const Var all = repeated(tape, v, tokens * n_heads, head_dim, 1);
    return reshape(tape, all, {tokens, d_inner, 1});
  };
  const Var dt = softplus(tape, add(tape, in.dt_raw, by_head(in.dt_bias)));
  const Var decay = per_channel(exp(tape, mul(tape, dt, by_head(in.A))));
  const Var x = reshape(tape, contiguous(tape, in.x), {tokens, d_inner, 1});
  const Var write = mul(tape, mul(tape, per_channel(dt), x), per_state(in.B));
  const Var zeros(tape.device().zeros(decay.dtype(), {1, 1, d_state}));
  const Var h = recurrence(tape, add(tape, decay, zeros), write, seqs);
  const Var y = reshape(tape, sum_last(tape, mul(tape, h, per_state(in.C))), {tokens, d_inner});
  const bool by_channel = in.D.dim(0) == d_inner;
  const Var D =
      by_channel ? in.D : reshape(tape, repeated(tape, in.D, n_heads, head_dim, 1), {d_inner});
  return add(tape, y, mul(tape, by_head(D), in.x));
}

}  // namespace elapse

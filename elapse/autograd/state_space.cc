// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/state_space.h"

namespace elapse {
namespace {

// The gradient of a parameter, which kernels add to; of a frozen one, nobody's.
Tensor gradient_of(Tape& tape, const Var& parameter) {
  if (parameter.needs_grad()) return tape.accumulated_grad(parameter);
  return tape.device().zeros(parameter.dtype(), parameter.value().shape());
}

}  // namespace

Var long_conv(Tape& tape, const Var& x, const Var& K, const Sequences& seqs) {
  Device& device = tape.device();
  const Var y = tape.result(device.empty(x.dtype(), {seqs.tokens, K.dim(0)}), {&x, &K});
  long_conv_forward(device, {x.value(), K.value(), seqs, y.value()});
  tape.record(y, [&tape, x, K, seqs, y] {
    AssignedGrad dx(tape, x);
    long_conv_backward(tape.device(),
                       {y.grad(), x.value(), K.value(), seqs, dx.tensor(), gradient_of(tape, K)});
    dx.commit();
  });
  return y;
}

namespace {

void run_diagonal_ssm_backward(Tape& tape, const DiagonalSsmVars& in,
                               const DiagonalSsmBackward& forward, const Var& pool) {
  DiagonalSsmBackward args = forward;
  AssignedGrad dx(tape, in.x);
  args.dx = dx.tensor();
  args.ddt = gradient_of(tape, in.dt);
  args.dA_real = gradient_of(tape, in.A_real);
  if (in.A_imag) args.dA_imag = gradient_of(tape, in.A_imag);
  args.dC = gradient_of(tape, in.C);
  args.dD = gradient_of(tape, in.D);
  args.dpool = pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor();
  diagonal_ssm_backward(tape.device(), args);
  dx.commit();
}

}  // namespace

Var diagonal_ssm(Tape& tape, const DiagonalSsmVars& in, const Sequences& seqs, const Var& pool,
                 const Tap& h) {
  Device& device = tape.device();
  const DiagonalSsmInputs inputs = {.x = in.x.value(),
                                    .dt = in.dt.value(),
                                    .A_real = in.A_real.value(),
                                    .A_imag = in.A_imag ? in.A_imag.value() : Tensor(),
                                    .C = in.C.value(),
                                    .D = in.D.value(),
                                    .seqs = seqs};
  const int64_t d_inner = inputs.d_inner();
  const Var y = tape.result(device.empty(in.x.dtype(), {seqs.tokens, d_inner}),
                            {&in.x, &in.dt, &in.A_real, &in.A_imag, &in.C, &in.D, &pool});
  const bool keeps_starts = pool && y.needs_grad();
  const Tensor starts = keeps_starts ? device.empty(wide_dtype(in.x.dtype()),
                                                    {seqs.count(), d_inner, inputs.d_state()})
                                     : Tensor();
  diagonal_ssm_forward(device, {.in = inputs,
                                .pool = pool ? pool.value() : Tensor(),
                                .starts = starts,
                                .y = y.value(),
                                .h = h});
  if (!y.needs_grad()) return y;
  std::vector<Var> outputs = {y};
  if (pool) outputs.push_back(pool);
  Tap later = h;
  later.watch = {};
  tape.record(outputs, [&tape, in, inputs, pool, starts, y, later] {
    DiagonalSsmBackward args{};
    args.dy = y.grad() ? y.grad() : tape.device().zeros(y.dtype(), y.value().shape());
    args.in = inputs;
    args.starts = starts;
    args.h = later;
    run_diagonal_ssm_backward(tape, in, args, pool);
  });
  return y;
}

}  // namespace elapse

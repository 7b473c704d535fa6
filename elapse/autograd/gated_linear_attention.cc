// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/functions.h"

namespace elapse {
namespace {

// What a backward needs of the taps: nothing is watched there.
GlaTaps backward_of(GlaTaps taps) {
  for (Tap* t : {&taps.decay, &taps.write, &taps.h, &taps.readout_h}) t->watch = {};
  return taps;
}

void run_backward(Tape& tape, const GlaVars& in, const GlaBackward& forward, const Var& pool) {
  GlaBackward args = forward;
  AssignedGrad dq(tape, in.q), dk(tape, in.k), dv(tape, in.v), dlog_decay(tape, in.log_decay);
  args.dq = dq.tensor();
  args.dk = dk.tensor();
  args.dv = dv.tensor();
  args.dlog_decay = dlog_decay.tensor();
  args.dpool = pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor();
  gla_backward(tape.device(), args);
  for (AssignedGrad* grad : {&dq, &dk, &dv, &dlog_decay}) grad->commit();
}

}  // namespace

GlaInputs GlaVars::inputs(int64_t n_heads, const Sequences& seqs) const {
  return {.q = q.value(),
          .k = k.value(),
          .v = v.value(),
          .log_decay = log_decay.value(),
          .n_heads = n_heads,
          .seqs = seqs};
}

Var gated_linear_attention(Tape& tape, const GlaVars& in, int64_t n_heads, const Sequences& seqs,
                           const Var& pool, const GlaTaps& taps) {
  Device& device = tape.device();
  const DType dtype = in.q.dtype();
  const GlaInputs inputs = in.inputs(n_heads, seqs);
  const Var out = tape.result(device.empty(dtype, {seqs.tokens, inputs.d_inner()}),
                              {&in.q, &in.k, &in.v, &in.log_decay, &pool});
  const Tensor checkpoints = out.needs_grad()
                                 ? device.empty(wide_dtype(dtype), {gla_checkpoint_count(inputs),
                                                                    inputs.d_inner(), inputs.d_k()})
                                 : Tensor();
  gla_forward(device, {.in = inputs,
                       .pool = pool ? pool.value() : Tensor(),
                       .checkpoints = checkpoints,
                       .out = out.value(),
                       .taps = taps});
  if (!out.needs_grad()) return out;
  std::vector<Var> outputs = {out};
  if (pool) outputs.push_back(pool);
  tape.record(outputs, [&tape, in, inputs, pool, checkpoints, out, later = backward_of(taps)] {
    GlaBackward args{};
    args.dout = out.grad() ? out.grad() : tape.device().zeros(out.dtype(), out.value().shape());
    args.in = inputs;
    args.checkpoints = checkpoints;
    args.taps = later;
    run_backward(tape, in, args, pool);
  });
  return out;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/functions.h"

namespace elapse {

Var delayed(Tape& tape, const Var& x, const Delays& delays, const Sequences& seqs,
            const Var& pool) {
  Device& device = tape.device();
  const Var out =
      tape.result(device.empty(x.dtype(), {seqs.tokens, delays.width * x.dim(1)}), {&x, &pool});
  delayed_forward(device, {x.value(), delays, seqs, pool ? pool.value() : Tensor(), out.value()});
  if (!out.needs_grad()) return out;
  std::vector<Var> outputs = {out};
  if (pool) outputs.push_back(pool);
  tape.record(outputs, [&tape, x, delays, seqs, pool, out] {
    const Tensor dout =
        out.grad() ? out.grad() : tape.device().zeros(out.dtype(), out.value().shape());
    AssignedGrad dx(tape, x);
    delayed_backward(tape.device(), {dout, delays, seqs, dx.tensor(),
                                     pool.needs_grad() ? tape.accumulated_grad(pool) : Tensor()});
    dx.commit();
  });
  return out;
}

}  // namespace elapse

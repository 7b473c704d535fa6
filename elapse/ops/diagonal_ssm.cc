// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/diagonal_ssm.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

Shape shape_of_C(const DiagonalSsmInputs& in) {
  if (in.is_complex()) return {in.d_inner(), in.n_states(), 2};
  return {in.d_inner(), in.n_states()};
}

// What forward and backward have in common.
template <class Args>
void check_inputs(const ArgumentCheck& check, const ArgumentCheck& wide, const Args& args) {
  const DiagonalSsmInputs& in = args.in;
  const int64_t tokens = in.seqs.tokens, d_inner = in.d_inner(), n_states = in.n_states();
  check.that(n_states >= 1, "n_states is 0");
  check.matrix("x", in.x, {tokens, d_inner});
  wide.contiguous("dt", in.dt, {d_inner});
  wide.contiguous("A_real", in.A_real, {d_inner, n_states});
  if (in.is_complex()) wide.contiguous("A_imag", in.A_imag, {d_inner, n_states});
  wide.contiguous("C", in.C, shape_of_C(in));
  wide.contiguous("D", in.D, {d_inner});
  if (args.starts) {
    wide.contiguous("starts", args.starts, {in.seqs.count(), d_inner, in.d_state()});
  }
  wide.inner_tap("h", args.h, {tokens, d_inner, in.d_state()});
}

}  // namespace

void diagonal_ssm_forward(Device& device, const DiagonalSsmForward& args) {
  const DiagonalSsmInputs& in = args.in;
  const DType dtype = in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args);
  wide.pool("pool", args.pool, in.seqs.max_slot + 1, in.d_inner(), in.d_state());
  check.matrix("y", args.y, {in.seqs.tokens, in.d_inner()});
  device.launch(dtype, args);
}

void diagonal_ssm_backward(Device& device, const DiagonalSsmBackward& args) {
  const DiagonalSsmInputs& in = args.in;
  const DType dtype = in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args);
  const int64_t tokens = in.seqs.tokens, d_inner = in.d_inner(), n_states = in.n_states();
  check.matrix("dy", args.dy, {tokens, d_inner});
  check.matrix("dx", args.dx, {tokens, d_inner});
  wide.contiguous("ddt", args.ddt, {d_inner});
  wide.contiguous("dA_real", args.dA_real, {d_inner, n_states});
  if (in.is_complex()) wide.contiguous("dA_imag", args.dA_imag, {d_inner, n_states});
  wide.contiguous("dC", args.dC, shape_of_C(in));
  wide.contiguous("dD", args.dD, {d_inner});
  if (args.dpool) {
    wide.pool("dpool", args.dpool, in.seqs.max_slot + 1, d_inner, in.d_state());
  }
  device.launch(dtype, args);
}

}  // namespace elapse

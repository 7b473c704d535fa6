// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/recurrent.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

// What forward and backward have in common.
template <class Args>
void check_inputs(const ArgumentCheck& wide, const Args& args) {
  const int64_t tokens = args.seqs.tokens, d_inner = args.weight.dim(1);
  wide.weight("weight", args.weight, {gate_count(args.cell) * d_inner, d_inner});
  if (args.before) {
    wide.contiguous("before", args.before, {tokens, state_rows(args.cell) * d_inner});
  }
  if (args.inner) wide.contiguous("inner", args.inner, {tokens, inner_rows(args.cell) * d_inner});
  for (const Tap& gate : args.taps.gates) wide.inner_tap("taps.gates", gate, {tokens, d_inner});
  wide.inner_tap("taps.c", args.taps.c, {tokens, d_inner});
  wide.inner_tap("taps.h", args.taps.h, {tokens, d_inner});
}

}  // namespace

void recurrent_forward(Device& device, const RecurrentForward& args) {
  const DType dtype = args.a.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(wide, args);
  const int64_t d_inner = args.weight.dim(1), gates = gate_count(args.cell) * d_inner;
  check.matrix("a", args.a, {args.seqs.tokens, gates});
  wide.contiguous("bias", args.bias, {gates});
  wide.pool("pool", args.pool, args.seqs.max_slot + 1, state_rows(args.cell), d_inner);
  check.matrix("h", args.h, {args.seqs.tokens, d_inner});
  device.launch(dtype, args);
}

void recurrent_backward(Device& device, const RecurrentBackward& args) {
  const DType dtype = args.dh.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(wide, args);
  const int64_t d_inner = args.weight.dim(1), gates = gate_count(args.cell) * d_inner;
  check.that(args.before && args.inner, "before and inner: expected those of forward, found none");
  check.matrix("dh", args.dh, {args.seqs.tokens, d_inner});
  check.matrix("da", args.da, {args.seqs.tokens, gates});
  wide.contiguous("dm", args.dm, {args.seqs.tokens, gates});
  if (args.dpool) {
    wide.pool("dpool", args.dpool, args.seqs.max_slot + 1, state_rows(args.cell), d_inner);
  }
  device.launch(dtype, args);
}

}  // namespace elapse

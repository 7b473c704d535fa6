// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/causal_conv.h"

#include <algorithm>

#include "elapse/ops/check.h"

namespace elapse {
namespace {

// What forward and backward have in common.
template <class Args>
void check_inputs(const ArgumentCheck& check, const Args& args) {
  const ArgumentCheck wide(args.kOp, wide_dtype(args.x.dtype()));
  const int64_t tokens = args.seqs.tokens, d_inner = args.weight.dim(0),
                d_conv = args.weight.dim(1);
  check.that(d_conv >= 1, "d_conv is 0");
  check.matrix("x", args.x, {tokens, d_inner});
  wide.contiguous("weight", args.weight, {d_inner, d_conv});
  if (args.bias) wide.contiguous("bias", args.bias, {d_inner});
  if (args.saved_start) {
    wide.contiguous("saved_start", args.saved_start, {args.seqs.count(), d_conv - 1, d_inner});
  }
  wide.inner_tap("taps.conv", args.taps.conv, {tokens, d_inner});
  const auto n_terms = std::ssize(args.taps.terms);
  check.that(n_terms == 0 || n_terms == d_conv, "taps.terms: expected none or d_conv taps");
  for (const Tap& term : args.taps.terms) {
    wide.inner_tap("taps.terms", term, {tokens, d_inner});
  }
}

}  // namespace

bool any_term_backward(const ConvTaps& taps) {
  return std::any_of(taps.terms.begin(), taps.terms.end(),
                     [](const Tap& t) { return t.is_active_backward(); });
}

void causal_conv_forward(Device& device, const CausalConvForward& args) {
  const ArgumentCheck check(device, args.kOp, args.x.dtype()),
      wide(args.kOp, wide_dtype(args.x.dtype()));
  check_inputs(check, args);
  const int64_t d_inner = args.weight.dim(0), d_conv = args.weight.dim(1);
  wide.pool("pool", args.pool, args.seqs.max_slot + 1, d_conv - 1, d_inner);
  check.matrix("y", args.y, {args.seqs.tokens, d_inner});
  device.launch(args.x.dtype(), args);
}

void causal_conv_backward(Device& device, const CausalConvBackward& args) {
  const ArgumentCheck check(device, args.kOp, args.x.dtype()),
      wide(args.kOp, wide_dtype(args.x.dtype()));
  check_inputs(check, args);
  const int64_t d_inner = args.weight.dim(0), d_conv = args.weight.dim(1);
  check.matrix("dy", args.dy, {args.seqs.tokens, d_inner});
  check.matrix("dx", args.dx, {args.seqs.tokens, d_inner});
  wide.contiguous("dweight", args.dweight, {d_inner, d_conv});
  if (args.dbias) wide.contiguous("dbias", args.dbias, {d_inner});
  if (args.dpool) wide.pool("dpool", args.dpool, args.seqs.max_slot + 1, d_conv - 1, d_inner);
  device.launch(args.x.dtype(), args);
}

void causal_shift(Device& device, const CausalShift& args) {
  const ArgumentCheck check(device, args.kOp, args.x.dtype());
  const Shape shape = {args.seqs.tokens, args.x.dim(1)};
  check.matrix("x", args.x, shape);
  check.matrix("out", args.out, shape);
  device.launch(args.x.dtype(), args);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/selective_scan.h"

#include <algorithm>

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_inputs(const ArgumentCheck& check, const ArgumentCheck& wide, const ScanInputs& in) {
  const int64_t tokens = in.seqs.tokens, d_inner = in.A.dim(0), d_state = in.A.dim(1);
  check.that(d_state >= 1, "d_state is 0");
  check.matrix("x", in.x, {tokens, d_inner});
  check.matrix("dt_raw", in.dt_raw, {tokens, d_inner});
  wide.contiguous("dt_bias", in.dt_bias, {d_inner});
  wide.contiguous("A", in.A, {d_inner, d_state});
  check.matrix("B", in.B, {tokens, d_state});
  check.matrix("C", in.C, {tokens, d_state});
  wide.contiguous("D", in.D, {d_inner});
  check.matrix("z", in.z, {tokens, d_inner});
}

void check_taps(const ArgumentCheck& check, const ScanTaps& taps, const ScanInputs& in) {
  const int64_t tokens = in.seqs.tokens, d_inner = in.A.dim(0), d_state = in.A.dim(1);
  for (size_t i = 0; i < taps.size(); ++i) {
    const bool per_state = is_per_state(static_cast<ScanPoint>(i));
    check.inner_tap("taps", taps[i],
                    per_state ? Shape{tokens, d_inner, d_state} : Shape{tokens, d_inner});
  }
}

}  // namespace

bool any_active_forward(const ScanTaps& taps) {
  return std::any_of(taps.begin(), taps.end(), [](const Tap& t) { return t.is_active_forward(); });
}

bool any_active_backward(const ScanTaps& taps) {
  return std::any_of(taps.begin(), taps.end(), [](const Tap& t) { return t.is_active_backward(); });
}

void selective_scan_forward(Device& device, const ScanForward& args) {
  const DType dtype = args.in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in);
  const int64_t d_inner = args.in.A.dim(0), d_state = args.in.A.dim(1);
  wide.pool("pool", args.pool, args.in.seqs.max_slot + 1, d_inner, d_state);
  if (args.checkpoints) {
    wide.contiguous("checkpoints", args.checkpoints,
                    {checkpoint_count(args.in.seqs), d_inner, d_state});
  }
  check.matrix("out", args.out, {args.in.seqs.tokens, d_inner});
  check_taps(wide, args.taps, args.in);
  device.launch(dtype, args);
}

void selective_scan_backward(Device& device, const ScanBackward& args) {
  const DType dtype = args.in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in);
  const int64_t tokens = args.in.seqs.tokens;
  const int64_t d_inner = args.in.A.dim(0), d_state = args.in.A.dim(1);
  check.matrix("dout", args.dout, {tokens, d_inner});
  wide.contiguous("checkpoints", args.checkpoints,
                  {checkpoint_count(args.in.seqs), d_inner, d_state});
  check.matrix("dx", args.dx, {tokens, d_inner});
  check.matrix("ddt_raw", args.ddt_raw, {tokens, d_inner});
  check.matrix("dB", args.dB, {tokens, d_state});
  check.matrix("dC", args.dC, {tokens, d_state});
  check.matrix("dz", args.dz, {tokens, d_inner});
  wide.contiguous("ddt_bias", args.ddt_bias, {d_inner});
  wide.contiguous("dA", args.dA, {d_inner, d_state});
  wide.contiguous("dD", args.dD, {d_inner});
  if (args.dpool) wide.pool("dpool", args.dpool, args.in.seqs.max_slot + 1, d_inner, d_state);
  check_taps(wide, args.taps, args.in);
  device.launch(dtype, args);
}

void recurrence(Device& device, const Recurrence& args) {
  const ArgumentCheck check(device, args.kOp, args.decay.dtype());
  const Shape shape = {args.seqs.tokens, args.decay.dim(1), args.decay.dim(2)};
  check.contiguous("decay", args.decay, shape);
  check.contiguous("write", args.write, shape);
  check.contiguous("h", args.h, shape);
  device.launch(args.decay.dtype(), args);
}

void recurrence_backward(Device& device, const RecurrenceBackward& args) {
  const ArgumentCheck check(device, args.kOp, args.decay.dtype());
  const Shape shape = {args.seqs.tokens, args.decay.dim(1), args.decay.dim(2)};
  check.contiguous("dh", args.dh, shape);
  check.contiguous("decay", args.decay, shape);
  check.contiguous("h", args.h, shape);
  check.contiguous("ddecay", args.ddecay, shape);
  check.contiguous("dwrite", args.dwrite, shape);
  device.launch(args.decay.dtype(), args);
}

}  // namespace elapse

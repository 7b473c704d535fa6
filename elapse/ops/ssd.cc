// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/ssd.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_inputs(const ArgumentCheck& check, const ArgumentCheck& wide, const SsdInputs& in) {
  const int64_t tokens = in.seqs.tokens, n_heads = in.n_heads(), d_inner = in.d_inner();
  check.that(n_heads >= 1 && d_inner >= n_heads && d_inner % n_heads == 0,
             "n_heads does not divide d_inner");
  check.that(in.n_groups >= 1 && n_heads % in.n_groups == 0, "n_groups does not divide n_heads");
  check.that(in.d_state() >= 1, "d_state is 0");
  check.that(in.chunk >= 1, "chunk is less than 1");
  check.that(in.dt_min <= in.dt_max, "dt_min is above dt_max");
  check.matrix("x", in.x, {tokens, d_inner});
  check.matrix("dt_raw", in.dt_raw, {tokens, n_heads});
  wide.contiguous("dt_bias", in.dt_bias, {n_heads});
  wide.contiguous("A", in.A, {n_heads});
  check.matrix("B", in.B, {tokens, in.n_groups * in.d_state()});
  check.matrix("C", in.C, {tokens, in.n_groups * in.d_state()});
  wide.contiguous("D", in.D, {in.D.dim(0) == n_heads ? n_heads : d_inner});
}

void check_taps(const ArgumentCheck& check, const SsdTaps& taps, const SsdInputs& in) {
  for (size_t i = 0; i < taps.size(); ++i) {
    check.inner_tap("taps", taps[i], in.point_shape(static_cast<SsdPoint>(i)));
  }
}

template <class Test>
bool any_of_recurrence(const SsdTaps& taps, Test&& test) {
  for (size_t i = 0; i < taps.size(); ++i) {
    if (is_of_recurrence(static_cast<SsdPoint>(i)) && test(taps[i])) return true;
  }
  return false;
}

}  // namespace

bool recurrence_is_active_forward(const SsdTaps& taps) {
  return any_of_recurrence(taps, [](const Tap& t) { return t.is_active_forward(); });
}

bool recurrence_is_edited(const SsdTaps& taps) {
  return any_of_recurrence(taps, [](const Tap& t) { return t.is_edited(); });
}

bool recurrence_is_active_backward(const SsdTaps& taps) {
  return any_of_recurrence(taps, [](const Tap& t) { return t.is_active_backward(); });
}

Shape SsdInputs::point_shape(SsdPoint p) const {
  switch (p) {
    case SsdPoint::B_bar:
      return {seqs.tokens, n_heads(), d_state()};
    case SsdPoint::write:
    case SsdPoint::h:
    case SsdPoint::readout_h:
      return {seqs.tokens, d_inner(), d_state()};
    case SsdPoint::y:
      return {seqs.tokens, d_inner()};
    default:
      return {seqs.tokens, n_heads()};
  }
}

void ssd_forward(Device& device, const SsdForward& args) {
  const DType dtype = args.in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in);
  const int64_t d_inner = args.in.d_inner(), d_state = args.in.d_state();
  wide.pool("pool", args.pool, args.in.seqs.max_slot + 1, d_inner, d_state);
  if (args.checkpoints) {
    wide.contiguous("checkpoints", args.checkpoints,
                    {ssd_checkpoint_count(args.in), d_inner, d_state});
  }
  check.matrix("out", args.out, {args.in.seqs.tokens, d_inner});
  check_taps(wide, args.taps, args.in);
  device.launch(dtype, args);
}

void ssd_backward(Device& device, const SsdBackward& args) {
  const SsdInputs& in = args.in;
  const DType dtype = in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, in);
  const int64_t tokens = in.seqs.tokens, d_inner = in.d_inner(), d_state = in.d_state();
  check.matrix("dout", args.dout, {tokens, d_inner});
  wide.contiguous("checkpoints", args.checkpoints, {ssd_checkpoint_count(in), d_inner, d_state});
  check.matrix("dx", args.dx, {tokens, d_inner});
  check.matrix("ddt_raw", args.ddt_raw, {tokens, in.n_heads()});
  check.matrix("dB", args.dB, in.B.shape());
  check.matrix("dC", args.dC, in.B.shape());
  wide.contiguous("ddt_bias", args.ddt_bias, {in.n_heads()});
  wide.contiguous("dA", args.dA, {in.n_heads()});
  wide.contiguous("dD", args.dD, in.D.shape());
  if (args.dpool) wide.pool("dpool", args.dpool, in.seqs.max_slot + 1, d_inner, d_state);
  check_taps(wide, args.taps, in);
  device.launch(dtype, args);
}

}  // namespace elapse

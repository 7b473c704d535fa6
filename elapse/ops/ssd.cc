// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/ssd.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_inputs(const ArgumentCheck& check, const SsdInputs& in) {
  const int64_t tokens = in.seqs.tokens, n_heads = in.n_heads(), d_inner = in.d_inner();
  check.that(n_heads >= 1 && d_inner >= n_heads && d_inner % n_heads == 0,
             "n_heads does not divide d_inner");
  check.that(in.n_groups >= 1 && n_heads % in.n_groups == 0, "n_groups does not divide n_heads");
  check.that(in.d_state() >= 1, "d_state is 0");
  check.that(in.chunk >= 1, "chunk is less than 1");
  check.that(in.dt_min <= in.dt_max, "dt_min is above dt_max");
  check.matrix("x", in.x, {tokens, d_inner});
  check.matrix("dt_raw", in.dt_raw, {tokens, n_heads});
  check.contiguous("dt_bias", in.dt_bias, {n_heads});
  check.contiguous("A", in.A, {n_heads});
  check.matrix("B", in.B, {tokens, in.n_groups * in.d_state()});
  check.matrix("C", in.C, {tokens, in.n_groups * in.d_state()});
  check.contiguous("D", in.D, {in.D.dim(0) == n_heads ? n_heads : d_inner});
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
  const ArgumentCheck check(args.kOp, args.in.x.dtype());
  check_inputs(check, args.in);
  const int64_t d_inner = args.in.d_inner(), d_state = args.in.d_state();
  check.pool("pool", args.pool, args.in.seqs.max_slot + 1, d_inner, d_state);
  if (args.checkpoints) {
    check.contiguous("checkpoints", args.checkpoints,
                     {ssd_checkpoint_count(args.in), d_inner, d_state});
  }
  check.matrix("out", args.out, {args.in.seqs.tokens, d_inner});
  check_taps(check, args.taps, args.in);
  device.launch(args.in.x.dtype(), args);
}

void ssd_backward(Device& device, const SsdBackward& args) {
  const SsdInputs& in = args.in;
  const ArgumentCheck check(args.kOp, in.x.dtype());
  check_inputs(check, in);
  const int64_t tokens = in.seqs.tokens, d_inner = in.d_inner(), d_state = in.d_state();
  check.matrix("dout", args.dout, {tokens, d_inner});
  check.contiguous("checkpoints", args.checkpoints, {ssd_checkpoint_count(in), d_inner, d_state});
  check.matrix("dx", args.dx, {tokens, d_inner});
  check.matrix("ddt_raw", args.ddt_raw, {tokens, in.n_heads()});
  check.matrix("dB", args.dB, in.B.shape());
  check.matrix("dC", args.dC, in.B.shape());
  check.contiguous("ddt_bias", args.ddt_bias, {in.n_heads()});
  check.contiguous("dA", args.dA, {in.n_heads()});
  check.contiguous("dD", args.dD, in.D.shape());
  if (args.dpool) check.pool("dpool", args.dpool, in.seqs.max_slot + 1, d_inner, d_state);
  check_taps(check, args.taps, in);
  device.launch(in.x.dtype(), args);
}

}  // namespace elapse

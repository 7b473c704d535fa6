// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_linear_attention.h"

#include <algorithm>

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_inputs(const ArgumentCheck& check, const GlaInputs& in) {
  const int64_t tokens = in.seqs.tokens;
  check.that(in.n_heads >= 1 && in.d_inner() >= in.n_heads && in.d_inner() % in.n_heads == 0,
             "n_heads does not divide d_inner");
  check.that(in.q.dim(1) >= in.n_heads && in.q.dim(1) % in.n_heads == 0,
             "n_heads does not divide the columns of q");
  check.that(in.chunk >= 1, "chunk is less than 1");
  const Shape keys = {tokens, in.q.dim(1)};
  check.matrix("q", in.q, keys);
  check.matrix("k", in.k, keys);
  check.matrix("v", in.v, {tokens, in.d_inner()});
  check.matrix("log_decay", in.log_decay, keys);
}

void check_taps(const ArgumentCheck& check, const GlaTaps& taps, const GlaInputs& in) {
  check.inner_tap("taps.decay", taps.decay, in.decay_shape());
  check.inner_tap("taps.write", taps.write, in.states_shape());
  check.inner_tap("taps.h", taps.h, in.states_shape());
  check.inner_tap("taps.readout_h", taps.readout_h, in.states_shape());
}

template <class Test>
bool any_of(const GlaTaps& taps, Test&& test) {
  const Tap* all[] = {&taps.decay, &taps.write, &taps.h, &taps.readout_h};
  return std::any_of(std::begin(all), std::end(all), [&](const Tap* t) { return test(*t); });
}

}  // namespace

bool GlaTaps::active_forward() const {
  return any_of(*this, [](const Tap& t) { return t.is_active_forward(); });
}
bool GlaTaps::edited() const {
  return any_of(*this, [](const Tap& t) { return t.is_edited(); });
}
bool GlaTaps::active_backward() const {
  return any_of(*this, [](const Tap& t) { return t.is_active_backward(); });
}

void gla_forward(Device& device, const GlaForward& args) {
  const GlaInputs& in = args.in;
  const DType dtype = in.q.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, in);
  wide.pool("pool", args.pool, in.seqs.max_slot + 1, in.d_inner(), in.d_k());
  if (args.checkpoints) {
    wide.contiguous("checkpoints", args.checkpoints,
                    {gla_checkpoint_count(in), in.d_inner(), in.d_k()});
  }
  check.matrix("out", args.out, in.v.shape());
  check_taps(wide, args.taps, in);
  device.launch(dtype, args);
}

void gla_backward(Device& device, const GlaBackward& args) {
  const GlaInputs& in = args.in;
  const DType dtype = in.q.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, in);
  check.matrix("dout", args.dout, in.v.shape());
  wide.contiguous("checkpoints", args.checkpoints,
                  {gla_checkpoint_count(in), in.d_inner(), in.d_k()});
  check.matrix("dq", args.dq, in.q.shape());
  check.matrix("dk", args.dk, in.q.shape());
  check.matrix("dv", args.dv, in.v.shape());
  check.matrix("dlog_decay", args.dlog_decay, in.q.shape());
  if (args.dpool) wide.pool("dpool", args.dpool, in.seqs.max_slot + 1, in.d_inner(), in.d_k());
  check_taps(wide, args.taps, in);
  device.launch(dtype, args);
}

}  // namespace elapse

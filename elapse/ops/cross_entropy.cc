// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/cross_entropy.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_targets(Device& device, Op op, const Tensor& targets, int64_t vocab) {
  if (!device.host_memory()) return;
  for (int64_t t = 0; t < targets.numel(); ++t) {
    const int64_t target = targets.data<int64_t>()[t];
    ELAPSE_CHECK(target == kIgnoredTarget || (target >= 0 && target < vocab),
                 "{}: target {} of token {} is not one of {} classes", name_of(op), target, t,
                 vocab);
  }
}

template <class Args>
void check_inputs(Device& device, const ArgumentCheck& check, const Args& args) {
  const int64_t tokens = args.logits.dim(0), vocab = args.logits.dim(1);
  check.that(vocab >= 1, "no classes");
  check.matrix("logits", args.logits, {tokens, vocab});
  check.indices("targets", args.targets, {tokens});
  check.contiguous("logsumexp", args.logsumexp, {tokens});
  check_targets(device, Args::kOp, args.targets, vocab);
}

}  // namespace

void cross_entropy_forward(Device& device, const CrossEntropyForward& args) {
  const ArgumentCheck check(device, args.kOp, args.logits.dtype());
  check_inputs(device, check, args);
  check.contiguous("loss", args.loss, {1});
  device.launch(args.logits.dtype(), args);
}

void cross_entropy_backward(Device& device, const CrossEntropyBackward& args) {
  const ArgumentCheck check(device, args.kOp, args.logits.dtype());
  check_inputs(device, check, args);
  check.contiguous("dloss", args.dloss, {1});
  check.matrix("dlogits", args.dlogits, {args.logits.dim(0), args.logits.dim(1)});
  device.launch(args.logits.dtype(), args);
}

void linear_cross_entropy_forward(Device& device, const LinearCrossEntropyForward& args) {
  const DType dtype = args.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const int64_t tokens = args.x.dim(0), d_model = args.x.dim(1), vocab = args.weight.dim(0);
  check.that(vocab >= 1, "no classes");
  check.matrix("x", args.x, {tokens, d_model});
  wide.weight("weight", args.weight, {vocab, d_model});
  check.indices("targets", args.targets, {tokens});
  check_targets(device, args.kOp, args.targets, vocab);
  wide.contiguous("loss", args.loss, {1});
  check.that(bool(args.dx) == bool(args.dweight), "dx and dweight come together");
  if (args.dx) check.matrix("dx", args.dx, {tokens, d_model});
  if (args.dweight) wide.contiguous("dweight", args.dweight, {vocab, d_model});
  device.launch(dtype, args);
}

void linear_cross_entropy_backward(Device& device, const LinearCrossEntropyBackward& args) {
  const DType dtype = args.unit_dx.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  wide.contiguous("dloss", args.dloss, {1});
  check.contiguous("unit_dx", args.unit_dx, args.unit_dx.shape());
  wide.contiguous("unit_dweight", args.unit_dweight, args.unit_dweight.shape());
  check.contiguous("dx", args.dx, args.unit_dx.shape());
  if (args.dweight) wide.contiguous("dweight", args.dweight, args.unit_dweight.shape());
  device.launch(dtype, args);
}

}  // namespace elapse

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
  const ArgumentCheck check(args.kOp, args.logits.dtype());
  check_inputs(device, check, args);
  check.contiguous("loss", args.loss, {1});
  device.launch(args.logits.dtype(), args);
}

void cross_entropy_backward(Device& device, const CrossEntropyBackward& args) {
  const ArgumentCheck check(args.kOp, args.logits.dtype());
  check_inputs(device, check, args);
  check.contiguous("dloss", args.dloss, {1});
  check.matrix("dlogits", args.dlogits, {args.logits.dim(0), args.logits.dim(1)});
  device.launch(args.logits.dtype(), args);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/optimizer.h"

#include "elapse/ops/check.h"

namespace elapse {

void sum_of_squares(Device& device, const SumOfSquares& args) {
  ELAPSE_CHECK(!args.tensors.empty(), "sum_of_squares: no tensors");
  const ArgumentCheck check(device, args.kOp, args.tensors.front().dtype());
  for (const Tensor& t : args.tensors) check.contiguous("tensors", t, t.shape());
  device.launch(args.tensors.front().dtype(), args);
}

void adamw(Device& device, const AdamW& args) {
  ELAPSE_CHECK(!args.tensors.empty(), "adamw: no tensors");
  ELAPSE_CHECK(args.step >= 1, "adamw: step {} (the first is 1)", args.step);
  const ArgumentCheck check(device, args.kOp, args.tensors.front().param.dtype());
  for (const AdamWTensor& t : args.tensors) {
    check.contiguous("param", t.param, t.param.shape());
    check.contiguous("grad", t.grad, t.param.shape());
    check.contiguous("m", t.m, t.param.shape());
    check.contiguous("v", t.v, t.param.shape());
  }
  device.launch(args.tensors.front().param.dtype(), args);
}

}  // namespace elapse

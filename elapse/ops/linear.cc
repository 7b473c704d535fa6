// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/linear.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

// Of what stands beside x or dy of this dtype and is not of 16 bits.
ArgumentCheck wide_check(Op op, DType dtype) { return {op, wide_dtype(dtype)}; }

}  // namespace

void linear_forward(Device& device, const LinearForward& args) {
  const ArgumentCheck check(device, args.kOp, args.x.dtype());
  const int64_t rows = args.x.dim(0), in = args.x.dim(1), out = args.weight.dim(0);
  const ArgumentCheck wide = wide_check(args.kOp, args.x.dtype());
  check.matrix("x", args.x, {rows, in});
  wide.weight("weight", args.weight, {out, in});
  if (args.bias) wide.contiguous("bias", args.bias, {out});
  (args.y.dtype() == DType::f32 ? wide : check).matrix("y", args.y, {rows, out});
  device.launch(args.x.dtype(), args);
}

void linear_backward_input(Device& device, const LinearBackwardInput& args) {
  const ArgumentCheck check(device, args.kOp, args.dy.dtype());
  const int64_t rows = args.dy.dim(0), in = args.weight.dim(1), out = args.weight.dim(0);
  check.matrix("dy", args.dy, {rows, out});
  wide_check(args.kOp, args.dy.dtype()).weight("weight", args.weight, {out, in});
  check.matrix("dx", args.dx, {rows, in});
  device.launch(args.dy.dtype(), args);
}

void linear_backward_weight(Device& device, const LinearBackwardWeight& args) {
  const ArgumentCheck check(device, args.kOp, args.dy.dtype());
  const int64_t rows = args.dy.dim(0), in = args.x.dim(1), out = args.dy.dim(1);
  const ArgumentCheck wide = wide_check(args.kOp, args.dy.dtype());
  check.matrix("dy", args.dy, {rows, out});
  check.matrix("x", args.x, {rows, in});
  wide.contiguous("dweight", args.dweight, {out, in});
  if (args.dbias) wide.contiguous("dbias", args.dbias, {out});
  device.launch(args.dy.dtype(), args);
}

}  // namespace elapse

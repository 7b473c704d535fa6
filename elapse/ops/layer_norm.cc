// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/layer_norm.h"

#include "elapse/ops/check.h"

namespace elapse {

void layer_norm_forward(Device& device, const LayerNormForward& args) {
  const DType dtype = args.y.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const int64_t tokens = args.x.dim(0), d_model = args.x.dim(1);
  const Shape shape = {tokens, d_model};
  (args.residual ? check : wide).matrix("x", args.x, shape);
  if (args.residual) {
    wide.matrix("residual", args.residual, shape);
    wide.matrix("sum", args.sum, shape);
  }
  wide.contiguous("weight", args.weight, {d_model});
  wide.contiguous("bias", args.bias, {d_model});
  wide.contiguous("mean", args.mean, {tokens, 1});
  wide.contiguous("scale", args.scale, {tokens, 1});
  check.matrix("y", args.y, shape);
  wide.inner_tap("scale_tap", args.scale_tap, {tokens, 1});
  device.launch(dtype, args);
}

void layer_norm_backward(Device& device, const LayerNormBackward& args) {
  const DType dtype = args.dy.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const int64_t tokens = args.dy.dim(0), d_model = args.dy.dim(1);
  const Shape shape = {tokens, d_model};
  check.matrix("dy", args.dy, shape);
  if (args.dsum) wide.matrix("dsum", args.dsum, shape);
  wide.matrix("sum", args.sum, shape);
  wide.contiguous("weight", args.weight, {d_model});
  wide.contiguous("mean", args.mean, {tokens, 1});
  wide.contiguous("scale", args.scale, {tokens, 1});
  wide.matrix("dsum_total", args.dsum_total, shape);
  check.that(!args.dx || args.sum.dtype() != dtype, "dx is wanted of a sum of its own dtype");
  if (args.dx) check.matrix("dx", args.dx, shape);
  wide.contiguous("dweight", args.dweight, {d_model});
  wide.contiguous("dbias", args.dbias, {d_model});
  wide.inner_tap("scale_tap", args.scale_tap, {tokens, 1});
  device.launch(dtype, args);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rms_norm.h"

#include "elapse/ops/check.h"

namespace elapse {

void rms_norm_forward(Device& device, const RmsNormForward& args) {
  const DType dtype = args.y.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const int64_t tokens = args.x.dim(0), d_model = args.x.dim(1);
  const Shape shape = {tokens, d_model};
  const bool wide_x = !args.residual && args.x.dtype() == wide_dtype(dtype);
  (wide_x ? wide : check).matrix("x", args.x, shape);
  if (args.residual) {
    wide.matrix("residual", args.residual, shape);
    wide.matrix("sum", args.sum, shape);
  }
  wide.contiguous("weight", args.weight, {d_model});
  wide.contiguous("scale", args.scale, {tokens, 1});
  check.matrix("y", args.y, shape);
  wide.inner_tap("scale_tap", args.scale_tap, {tokens, 1});
  device.launch(dtype, args);
}

void rms_norm_backward(Device& device, const RmsNormBackward& args) {
  const DType dtype = args.dy.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const ArgumentCheck& of_sum = args.sum.dtype() == wide_dtype(dtype) ? wide : check;
  const int64_t tokens = args.dy.dim(0), d_model = args.dy.dim(1);
  const Shape shape = {tokens, d_model};
  check.matrix("dy", args.dy, shape);
  if (args.dsum) of_sum.matrix("dsum", args.dsum, shape);
  of_sum.matrix("sum", args.sum, shape);
  wide.contiguous("weight", args.weight, {d_model});
  wide.contiguous("scale", args.scale, {tokens, 1});
  of_sum.matrix("dsum_total", args.dsum_total, shape);
  check.that(!args.dx || args.sum.dtype() != dtype, "dx is wanted of a sum of its own dtype");
  if (args.dx) check.matrix("dx", args.dx, shape);
  wide.contiguous("dweight", args.dweight, {d_model});
  wide.inner_tap("scale_tap", args.scale_tap, {tokens, 1});
  device.launch(dtype, args);
}

}  // namespace elapse

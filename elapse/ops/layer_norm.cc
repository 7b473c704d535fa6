// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/layer_norm.h"

#include "elapse/ops/check.h"

namespace elapse {

void layer_norm_forward(Device& device, const LayerNormForward& args) {
  const ArgumentCheck check(args.kOp, args.x.dtype());
  const int64_t tokens = args.x.dim(0), d_model = args.x.dim(1);
  const Shape shape = {tokens, d_model};
  check.matrix("x", args.x, shape);
  if (args.residual) {
    check.matrix("residual", args.residual, shape);
    check.matrix("sum", args.sum, shape);
  }
  check.contiguous("weight", args.weight, {d_model});
  check.contiguous("bias", args.bias, {d_model});
  check.contiguous("mean", args.mean, {tokens, 1});
  check.contiguous("scale", args.scale, {tokens, 1});
  check.matrix("y", args.y, shape);
  check.inner_tap("scale_tap", args.scale_tap, {tokens, 1});
  device.launch(args.x.dtype(), args);
}

void layer_norm_backward(Device& device, const LayerNormBackward& args) {
  const ArgumentCheck check(args.kOp, args.dy.dtype());
  const int64_t tokens = args.dy.dim(0), d_model = args.dy.dim(1);
  const Shape shape = {tokens, d_model};
  check.matrix("dy", args.dy, shape);
  if (args.dsum) check.matrix("dsum", args.dsum, shape);
  check.matrix("sum", args.sum, shape);
  check.contiguous("weight", args.weight, {d_model});
  check.contiguous("mean", args.mean, {tokens, 1});
  check.contiguous("scale", args.scale, {tokens, 1});
  check.matrix("dsum_total", args.dsum_total, shape);
  check.contiguous("dweight", args.dweight, {d_model});
  check.contiguous("dbias", args.dbias, {d_model});
  check.inner_tap("scale_tap", args.scale_tap, {tokens, 1});
  device.launch(args.dy.dtype(), args);
}

}  // namespace elapse

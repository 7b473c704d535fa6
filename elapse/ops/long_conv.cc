// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/long_conv.h"

#include "elapse/ops/check.h"

namespace elapse {

void long_conv_forward(Device& device, const LongConvForward& args) {
  const DType dtype = args.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const Shape shape = {args.seqs.tokens, args.K.dim(0)};
  check.that(args.K.dim(1) >= 1, "filter_len is 0");
  check.matrix("x", args.x, shape);
  wide.contiguous("K", args.K, args.K.shape());
  check.matrix("y", args.y, shape);
  device.launch(dtype, args);
}

void long_conv_backward(Device& device, const LongConvBackward& args) {
  const DType dtype = args.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const Shape shape = {args.seqs.tokens, args.K.dim(0)};
  check.that(args.K.dim(1) >= 1, "filter_len is 0");
  check.matrix("dy", args.dy, shape);
  check.matrix("x", args.x, shape);
  wide.contiguous("K", args.K, args.K.shape());
  check.matrix("dx", args.dx, shape);
  wide.contiguous("dK", args.dK, args.K.shape());
  device.launch(dtype, args);
}

}  // namespace elapse

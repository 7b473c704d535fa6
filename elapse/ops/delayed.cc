// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/delayed.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

// What forward and backward have in common: of x and out, or of their gradients.
template <class Args>
void check_inputs(const ArgumentCheck& check, const Args& args, std::string_view name,
                  const Tensor& x, std::string_view out_name, const Tensor& out) {
  const Delays& delays = args.delays;
  check.that(delays.width >= 2, "width is less than 2");
  check.that(delays.dilation >= 1, "dilation is less than 1");
  check.matrix(name, x, {args.seqs.tokens, x.dim(1)});
  check.matrix(out_name, out, {args.seqs.tokens, delays.width * x.dim(1)});
}

}  // namespace

void delayed_forward(Device& device, const DelayedForward& args) {
  const DType dtype = args.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, args, "x", args.x, "out", args.out);
  wide.pool("pool", args.pool, args.seqs.max_slot + 1, args.delays.queue_rows(), args.x.dim(1));
  device.launch(dtype, args);
}

void delayed_backward(Device& device, const DelayedBackward& args) {
  const DType dtype = args.dx.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, args, "dx", args.dx, "dout", args.dout);
  if (args.dpool) {
    wide.pool("dpool", args.dpool, args.seqs.max_slot + 1, args.delays.queue_rows(),
              args.dx.dim(1));
  }
  device.launch(dtype, args);
}

}  // namespace elapse

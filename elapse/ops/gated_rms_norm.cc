// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_rms_norm.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_inputs(const ArgumentCheck& check, const ArgumentCheck& wide,
                  const GatedRmsNormInputs& in, const Tensor& scale) {
  const int64_t tokens = in.x.dim(0), d_inner = in.x.dim(1);
  check.that(in.n_groups >= 1 && d_inner % in.n_groups == 0, "n_groups does not divide d_inner");
  check.matrix("x", in.x, {tokens, d_inner});
  check.matrix("z", in.z, {tokens, d_inner});
  wide.contiguous("weight", in.weight, {d_inner});
  wide.contiguous("scale", scale, {tokens, in.n_groups});
  wide.inner_tap("gate_tap", in.gate_tap, {tokens, d_inner});
  wide.inner_tap("gated_tap", in.gated_tap, {tokens, d_inner});
  wide.inner_tap("scale_tap", in.scale_tap, {tokens, in.n_groups});
}

}  // namespace

void gated_rms_norm_forward(Device& device, const GatedRmsNormForward& args) {
  const DType dtype = args.in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in, args.scale);
  check.matrix("y", args.y, args.in.x.shape());
  device.launch(dtype, args);
}

void gated_rms_norm_backward(Device& device, const GatedRmsNormBackward& args) {
  const DType dtype = args.in.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in, args.scale);
  for (const auto& [name, t] : {std::pair{"dy", &args.dy}, {"dx", &args.dx}, {"dz", &args.dz}}) {
    check.matrix(name, *t, args.in.x.shape());
  }
  wide.contiguous("dweight", args.dweight, {args.in.x.dim(1)});
  device.launch(dtype, args);
}

}  // namespace elapse

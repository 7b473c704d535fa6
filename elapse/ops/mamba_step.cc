// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/mamba_step.h"

#include "elapse/ops/causal_conv.h"
#include "elapse/ops/check.h"
#include "elapse/ops/linear.h"
#include "elapse/ops/selective_scan.h"

namespace elapse {

void mamba_step(Device& device, const MambaStep& args) {
  const DType dtype = args.u.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  const int64_t tokens = args.seqs.tokens, d_model = args.u.dim(1), d_inner = args.A.dim(0);
  const int64_t d_state = args.A.dim(1), dt_rank = args.dt_proj.dim(1);
  const int64_t d_conv = args.conv_weight.dim(1), slots = args.seqs.max_slot + 1;
  check.that(args.seqs.max_len <= 1 && tokens == args.seqs.count(),
             "a sequence has more or less than one token");
  check.matrix("u", args.u, {tokens, d_model});
  wide.weight("in_proj", args.in_proj, {2 * d_inner, d_model});
  if (args.in_proj_bias) wide.contiguous("in_proj_bias", args.in_proj_bias, {2 * d_inner});
  wide.contiguous("conv_weight", args.conv_weight, {d_inner, d_conv});
  if (args.conv_bias) wide.contiguous("conv_bias", args.conv_bias, {d_inner});
  wide.weight("x_proj", args.x_proj, {dt_rank + 2 * d_state, d_inner});
  wide.weight("dt_proj", args.dt_proj, {d_inner, dt_rank});
  wide.contiguous("dt_bias", args.dt_bias, {d_inner});
  wide.contiguous("A", args.A, {d_inner, d_state});
  wide.contiguous("D", args.D, {d_inner});
  wide.pool("conv_pool", args.conv_pool, slots, d_conv - 1, d_inner);
  wide.pool("state_pool", args.state_pool, slots, d_inner, d_state);
  check.matrix("gated", args.gated, {tokens, d_inner});
  device.launch(dtype, args);
}

void mamba_step_by_parts(Device& device, const MambaStep& args) {
  const DType dtype = args.u.dtype();
  const int64_t tokens = args.seqs.tokens, d_inner = args.A.dim(0), d_state = args.A.dim(1);
  const int64_t dt_rank = args.dt_proj.dim(1), columns = dt_rank + 2 * d_state;
  const Tensor in = device.empty(dtype, {tokens, 2 * d_inner});
  linear_forward(device, {args.u, args.in_proj, args.in_proj_bias, in});
  const Tensor x = device.empty(dtype, {tokens, d_inner});
  causal_conv_forward(device, {.x = in.columns(0, d_inner),
                               .weight = args.conv_weight,
                               .bias = args.conv_bias,
                               .seqs = args.seqs,
                               .pool = args.conv_pool,
                               .saved_start = {},
                               .y = x,
                               .taps = {}});
  const Tensor selected = device.empty(dtype, {tokens, columns});
  linear_forward(device, {x, args.x_proj, {}, selected});
  const Tensor dt_raw = device.empty(dtype, {tokens, d_inner});
  linear_forward(device, {selected.columns(0, dt_rank), args.dt_proj, {}, dt_raw});
  selective_scan_forward(device, {.in = {.x = x,
                                         .dt_raw = dt_raw,
                                         .dt_bias = args.dt_bias,
                                         .A = args.A,
                                         .B = selected.columns(dt_rank, dt_rank + d_state),
                                         .C = selected.columns(dt_rank + d_state, columns),
                                         .D = args.D,
                                         .z = in.columns(d_inner, 2 * d_inner),
                                         .seqs = args.seqs},
                                  .pool = args.state_pool,
                                  .checkpoints = {},
                                  .out = args.gated,
                                  .taps = {}});
}

}  // namespace elapse

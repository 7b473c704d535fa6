// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/pointwise.h"

#include "elapse/ops/check.h"

namespace elapse {
namespace {

template <class Args>
void check_same_shape(const Args&, std::string_view name, const Tensor& t, const Tensor& like) {
  ELAPSE_CHECK(t.shape() == like.shape() && t.dtype() == like.dtype(),
               "{}: {}: expected {} {}, found {} {}", name_of(Args::kOp), name,
               name_of(like.dtype()), like.shape().str(), name_of(t.dtype()), t.shape().str());
}

template <class Args>
void check_broadcasts(const Args&, std::string_view name, const Tensor& t, const Tensor& to) {
  bool fits = t.shape().rank() == to.shape().rank() && t.dtype() == to.dtype();
  for (int i = 0; fits && i < t.shape().rank(); ++i) fits = t.dim(i) == to.dim(i) || t.dim(i) == 1;
  ELAPSE_CHECK(fits, "{}: {}: {} {} does not broadcast to {} {}", name_of(Args::kOp), name,
               name_of(t.dtype()), t.shape().str(), name_of(to.dtype()), to.shape().str());
}

bool can_compute_in(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16;
}

}  // namespace

void fill(Device& device, const Fill& args) {
  ELAPSE_CHECK(can_compute_in(args.out.dtype()), "fill: cannot fill {}", name_of(args.out.dtype()));
  device.launch(args.out.dtype(), args);
}

void copy(Device& device, const Copy& args) {
  ELAPSE_CHECK(args.x.shape() == args.out.shape(), "copy: expected {}, found {}",
               args.out.shape().str(), args.x.shape().str());
  ELAPSE_CHECK(can_compute_in(args.x.dtype()) && device.has(args.x.dtype(), args.kOp),
               "copy: cannot copy {} on device {}", name_of(args.x.dtype()), device.name());
  device.launch(args.out.dtype(), args);
}

void unary_forward(Device& device, const UnaryForward& args) {
  check_same_shape(args, "y", args.y, args.x);
  device.launch(args.x.dtype(), args);
}

void unary_backward(Device& device, const UnaryBackward& args) {
  check_same_shape(args, "dy", args.dy, args.x);
  check_same_shape(args, "dx", args.dx, args.x);
  device.launch(args.x.dtype(), args);
}

void binary(Device& device, const Binary& args) {
  check_broadcasts(args, "a", args.a, args.out);
  check_broadcasts(args, "b", args.b, args.out);
  device.launch(args.out.dtype(), args);
}

void swiglu_forward(Device& device, const SwigluForward& args) {
  check_same_shape(args, "b", args.b, args.a);
  check_same_shape(args, "y", args.y, args.a);
  device.launch(args.a.dtype(), args);
}

void swiglu_backward(Device& device, const SwigluBackward& args) {
  check_same_shape(args, "b", args.b, args.a);
  check_same_shape(args, "dy", args.dy, args.a);
  check_same_shape(args, "da", args.da, args.a);
  check_same_shape(args, "db", args.db, args.a);
  device.launch(args.a.dtype(), args);
}

void sum_to(Device& device, const SumTo& args) {
  check_broadcasts(args, "out", args.out, args.x);
  device.launch(args.x.dtype(), args);
}

void tap_forward(Device& device, const TapForward& args) {
  const DType dtype = args.x.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check.matrix("x", args.x, args.x.shape());
  wide.tap("tap", args.tap, args.x.shape());
  check.that(args.out || !args.tap.is_edited(), "out is missing");
  if (args.out) check.matrix("out", args.out, args.x.shape());
  device.launch(dtype, args);
}

void tap_backward(Device& device, const TapBackward& args) {
  const DType dtype = args.dout.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check.matrix("dout", args.dout, args.dout.shape());
  wide.tap("tap", args.tap, args.dout.shape());
  check.matrix("dx", args.dx, args.dout.shape());
  device.launch(dtype, args);
}

}  // namespace elapse

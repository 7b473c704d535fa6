// SPDX-License-Identifier: Apache-2.0
// The scan of bf16 activations, in float32: they are converted before it, and what it assigns after.
#include <array>

#include "elapse/backends/cuda/kernels.h"

namespace elapse::cuda {
namespace {

Tensor widened(Device& device, const Tensor& narrow) {
  const Tensor wide = device.empty(DType::f32, narrow.shape());
  copy(device, {narrow, wide});
  return wide;
}

ScanInputs widened(Device& device, ScanInputs in) {
  for (Tensor* t : {&in.x, &in.dt_raw, &in.B, &in.C, &in.z}) *t = widened(device, *t);
  return in;
}

}  // namespace

void selective_scan_forward_bf16(Device& device, const ScanForward& a) {
  ScanForward wide = a;
  wide.in = widened(device, a.in);
  wide.out = device.empty(DType::f32, a.out.shape());
  cuda::selective_scan_forward(device, wide);
  copy(device, {wide.out, a.out});
}

void selective_scan_backward_bf16(Device& device, const ScanBackward& a) {
  ScanBackward wide = a;
  wide.in = widened(device, a.in);
  wide.dout = widened(device, a.dout);
  const std::array<Tensor*, 5> assigned = {&wide.dx, &wide.ddt_raw, &wide.dB, &wide.dC, &wide.dz};
  const std::array<Tensor, 5> narrow = {a.dx, a.ddt_raw, a.dB, a.dC, a.dz};
  for (Tensor* t : assigned) *t = device.empty(DType::f32, t->shape());
  cuda::selective_scan_backward(device, wide);
  for (size_t i = 0; i < narrow.size(); ++i) copy(device, {*assigned[i], narrow[i]});
}

}  // namespace elapse::cuda

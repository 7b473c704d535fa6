// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/core/convert.h"
#include "elapse/ops/device.h"

namespace elapse::ref {

// A weight of 16 bits as T; any other as it is.
template <class T>
Tensor widened(Device& device, const Tensor& weight) {
  if (weight.dtype() == dtype_of<T>()) return weight;
  const Tensor wide = device.empty(dtype_of<T>(), weight.shape());
  convert_elements(weight.dtype(), weight.raw(), wide.dtype(), wide.raw(), weight.numel());
  return wide;
}

}  // namespace elapse::ref

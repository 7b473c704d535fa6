// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

namespace elapse::bench {

// Float32 numbers uniform over [lo, hi); a large tensor repeats a block of them.
Tensor uniform(Device& device, Shape shape, double lo = -1, double hi = 1);

inline Tensor zeros(Device& device, Shape shape) { return device.zeros(DType::f32, shape); }

}  // namespace elapse::bench

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>

#include "elapse/ops/device.h"

namespace elapse::bench {

// What bounds a kernel on a GPU.
enum class GpuLimit : uint8_t {
  copy,               // bytes read and written, by a copy from its memory to itself
  products_bf16,      // multiplications of a large product of matrices, with sums of float32
  products_f32,       // the same in float32
  special_functions,  // powers of two, by the units that give exponentials and reciprocals too
};
inline constexpr size_t kGpuLimits = 4;

double measured_rate(Device& device, GpuLimit limit);  // a second

}  // namespace elapse::bench

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

namespace elapse::cpu {

// out[c] += the sum of column c of `matrix`, (rows, columns), from its first row to its last.
void add_column_sums(Device& device, const Tensor& matrix, float* out);

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

// What stands around products of matrices.
namespace elapse::cuda {

// Every row of y (rows, width), float32 or bf16, becomes `row` (width); zeros where that is empty.
void fill_rows(Device& device, const Tensor& row, const Tensor& y);

// A weight (float32 or of 16 bits) in `dtype`, float32 or bf16: itself where it is that.
Tensor converted(Device& device, const Tensor& weight, DType dtype);

// sums[c] += the sum of column c of `matrix` (rows, columns), float32 or bf16,
// whose rows may be strided.
void add_column_sums(Device& device, const Tensor& matrix, float* sums);

// partial (parts, columns) summed over its parts in order, and added to sums.
void add_parts(Device& device, const float* partial, int64_t parts, int64_t columns, float* sums);

}  // namespace elapse::cuda

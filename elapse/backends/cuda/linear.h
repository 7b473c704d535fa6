// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/runtime.h"
#include "elapse/ops/linear.h"

namespace elapse::cuda {

// A matrix, float32 or bf16, as cuBLAS sees it: columns first, so its transpose. Rows may be
// strided.
struct Factor {
  cublasOperation_t op;
  const Tensor& matrix;
};

// c^T (m, n) = a b + beta c^T, of two factors of one dtype; c is of that or float32.
void multiply(Device& device, Op op, int64_t m, int64_t n, int64_t k, const Factor& a,
              const Factor& b, float beta, const Tensor& c);

// Computes it where there are few rows and they are aligned; else gives false.
inline constexpr int kFewRows = 4;
bool linear_of_few_rows(Device& device, const LinearForward& args);
bool has_runs(const Tensor& matrix);  // whether its rows are read in vectors there

}  // namespace elapse::cuda

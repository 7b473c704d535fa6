// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLAS, in float32 without tf32. cuBLAS counts columns first: it is given the
// transposes. Weights of 16 bits are widened for it.
#include <algorithm>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/runtime.h"

namespace elapse::cuda {
namespace {

// A matrix as cuBLAS sees it, where it is columns first; rows then lie `stride` apart.
struct Factor {
  cublasOperation_t op;
  const float* data;
  int64_t stride;

  Factor(cublasOperation_t o, const Tensor& t)
      : op(o), data(t.data<float>()), stride(row_stride(t)) {}

  static int64_t row_stride(const Tensor& t) {
    return std::max<int64_t>({1, t.dim(1), t.dim(0) > 1 ? t.stride(0) : 1});
  }
};

// c^T (m, n) = a b + beta c^T.
void multiply(Device& device, Op op, int64_t m, int64_t n, int64_t k, const Factor& a,
              const Factor& b, float beta, const Tensor& c) {
  if (m == 0 || n == 0) return;
  const float one = 1;
  check(blas().sgemm(context_of(device).blas, a.op, b.op, m, n, k, &one, a.data, a.stride, b.data,
                     b.stride, &beta, c.data<float>(), Factor::row_stride(c)),
        name_of(op));
}

}  // namespace

void linear_forward(Device& device, const LinearForward& a) {
  const int64_t rows = a.x.dim(0), in = a.x.dim(1), out = a.weight.dim(0);
  const bool starts = a.bias || in == 0;
  if (starts) fill_rows(device, a.bias, a.y);
  if (in == 0) return;
  const Tensor weight = widened(device, a.weight);
  multiply(device, a.kOp, out, rows, in, {CUBLAS_OP_T, weight}, {CUBLAS_OP_N, a.x}, starts ? 1 : 0,
           a.y);
}

void linear_backward_input(Device& device, const LinearBackwardInput& a) {
  const int64_t rows = a.dy.dim(0), in = a.weight.dim(1), out = a.weight.dim(0);
  if (out == 0) return fill_rows(device, {}, a.dx);
  const Tensor weight = widened(device, a.weight);
  multiply(device, a.kOp, in, rows, out, {CUBLAS_OP_N, weight}, {CUBLAS_OP_N, a.dy}, 0, a.dx);
}

void linear_backward_weight(Device& device, const LinearBackwardWeight& a) {
  const int64_t rows = a.dy.dim(0), in = a.x.dim(1), out = a.dy.dim(1);
  if (rows == 0) return;
  if (a.dbias) add_column_sums(device, a.dy, a.dbias.data<float>());
  multiply(device, a.kOp, in, out, rows, {CUBLAS_OP_N, a.x}, {CUBLAS_OP_T, a.dy}, 1, a.dweight);
}

}  // namespace elapse::cuda

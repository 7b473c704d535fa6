// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLAS: of float32 without tf32, of bf16 with sums of float32. cuBLAS counts
// columns first: it is given the transposes. Weights come in whatever dtype they are kept in and
// are converted to that of the activations each time: 6 bytes a weight beside a product of
// thousands of tokens, and no second copy of the weights to keep in step. A few rows go their own
// way (few_rows.cu).
#include "elapse/backends/cuda/linear.h"

#include <algorithm>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"

namespace elapse::cuda {
namespace {

// Rows of a matrix, where cuBLAS sees it columns first, lie so far apart.
int64_t row_stride(const Tensor& t) {
  return std::max<int64_t>({1, t.dim(1), t.dim(0) > 1 ? t.stride(0) : 1});
}

cudaDataType type_of(const Tensor& t) {
  return t.dtype() == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

}  // namespace

void multiply(Device& device, Op op, int64_t m, int64_t n, int64_t k, const Factor& a,
              const Factor& b, float beta, const Tensor& c) {
  if (m == 0 || n == 0) return;
  const float one = 1;
  context_of(device).in_chain = false;
  check(blas().gemm(context_of(device).blas, a.op, b.op, m, n, k, &one, a.matrix.raw(),
                    type_of(a.matrix), row_stride(a.matrix), b.matrix.raw(), type_of(b.matrix),
                    row_stride(b.matrix), &beta, c.raw(), type_of(c), row_stride(c),
                    CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        name_of(op));
}

void linear_forward(Device& device, const LinearForward& a) {
  if (linear_of_few_rows(device, a)) return;
  const int64_t rows = a.x.dim(0), in = a.x.dim(1), out = a.weight.dim(0);
  const bool starts = a.bias || in == 0;
  if (starts) fill_rows(device, a.bias, a.y);
  if (in == 0) return;
  const Tensor weight = converted(device, a.weight, a.x.dtype());
  multiply(device, a.kOp, out, rows, in, {CUBLAS_OP_T, weight}, {CUBLAS_OP_N, a.x}, starts ? 1 : 0,
           a.y);
}

void linear_backward_input(Device& device, const LinearBackwardInput& a) {
  const int64_t rows = a.dy.dim(0), in = a.weight.dim(1), out = a.weight.dim(0);
  if (out == 0 && !a.adds) return fill_rows(device, {}, a.dx);
  if (out == 0) return;
  const Tensor weight = converted(device, a.weight, a.dy.dtype());
  multiply(device, a.kOp, in, rows, out, {CUBLAS_OP_N, weight}, {CUBLAS_OP_N, a.dy}, a.adds ? 1 : 0,
           a.dx);
}

void linear_backward_weight(Device& device, const LinearBackwardWeight& a) {
  const int64_t rows = a.dy.dim(0), in = a.x.dim(1), out = a.dy.dim(1);
  if (rows == 0) return;
  if (a.dbias) add_column_sums(device, a.dy, a.dbias.data<float>());
  multiply(device, a.kOp, in, out, rows, {CUBLAS_OP_N, a.x}, {CUBLAS_OP_T, a.dy}, 1, a.dweight);
}

}  // namespace elapse::cuda

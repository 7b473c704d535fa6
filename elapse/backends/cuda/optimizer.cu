// SPDX-License-Identifier: Apache-2.0
// Bound: memory, 4 bytes an element for the norm, 28 for an update. A launch a tensor.
#include <cmath>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPart = 1 << 14;  // elements of one block's sum

__global__ void squares_kernel(const float* values, int64_t n, double* partial) {
  const int64_t begin = blockIdx.x * kPart, end = begin + kPart < n ? begin + kPart : n;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    sum += double(values[i]) * values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void total_kernel(const double* partial, int64_t parts, double* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

struct Update {
  float* param;
  const float* grad;
  float* m;
  float* v;
  int64_t n;
  const double* norm_squared;  // null: no clipping
  double max_norm;
  float decay, beta1, beta2, rest1, rest2, step_size, correction2, eps;
};

__global__ void adamw_kernel(Update a) {
  double clip = 1;
  if (a.norm_squared != nullptr) clip = a.max_norm / (sqrt(*a.norm_squared) + 1e-6);
  const float scale = static_cast<float>(clip < 1 || isnan(clip) ? clip : 1);
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < a.n; i += step) {
    const float g = scale * a.grad[i];
    const float m = fmaf(a.beta1, a.m[i], a.rest1 * g);
    const float v = fmaf(a.beta2, a.v[i], a.rest2 * g * g);
    a.m[i] = m;
    a.v[i] = v;
    const float denominator = sqrtf(v * a.correction2) + a.eps;
    a.param[i] = fmaf(a.decay, a.param[i], -a.step_size * m / denominator);
  }
}

Update update_of(const AdamW& a, const AdamWTensor& t) {
  const double correction1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double correction2 = 1 - std::pow(a.beta2, static_cast<double>(a.step));
  return {.param = t.param.data<float>(),
          .grad = t.grad.data<float>(),
          .m = t.m.data<float>(),
          .v = t.v.data<float>(),
          .n = t.param.numel(),
          .norm_squared = a.norm_squared ? a.norm_squared.data<double>() : nullptr,
          .max_norm = a.max_norm,
          .decay = static_cast<float>(t.decay ? 1 - a.lr * a.weight_decay : 1),
          .beta1 = static_cast<float>(a.beta1),
          .beta2 = static_cast<float>(a.beta2),
          .rest1 = static_cast<float>(1 - a.beta1),
          .rest2 = static_cast<float>(1 - a.beta2),
          .step_size = static_cast<float>(a.lr / correction1),
          .correction2 = static_cast<float>(1 / correction2),
          .eps = static_cast<float>(a.eps)};
}

}  // namespace

void sum_of_squares(Device& device, const SumOfSquares& a) {
  int64_t parts = 0;
  for (const Tensor& t : a.tensors) parts += divide_up(t.numel(), kPart);
  const Tensor partial = device.empty(DType::f64, {parts});
  double* next = partial.data<double>();
  for (const Tensor& t : a.tensors) {
    const int64_t blocks = divide_up(t.numel(), kPart);
    launch(device, name_of(a.kOp), squares_kernel, grid_of(blocks), kThreads, 0, t.data<float>(),
           t.numel(), next);
    next += blocks;
  }
  launch(device, name_of(a.kOp), total_kernel, grid_of(1), kThreads, 0, partial.data<double>(),
         parts, a.out.data<double>());
}

void adamw(Device& device, const AdamW& a) {
  for (const AdamWTensor& t : a.tensors) {
    launch(device, name_of(a.kOp), adamw_kernel, grid_for(t.param.numel(), kThreads), kThreads, 0,
           update_of(a, t));
  }
}

}  // namespace elapse::cuda

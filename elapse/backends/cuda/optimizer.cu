// SPDX-License-Identifier: Apache-2.0
// Bound: memory, 4 bytes an element for the norm, 28 for an update. A launch for all tensors: which
// they are stands in its parameters.
#include <cmath>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPart = 1 << 13;  // elements of a block
constexpr int kMost = 480;          // tensors of a launch, whose parameters have 32764 bytes

// Tensors of one launch, cut into parts of a block each.
template <class T>
struct Parts {
  int count = 0;
  uint32_t begin[kMost + 1] = {};  // the first part of each, and the end
  T tensors[kMost];

  bool full() const { return count == kMost; }
  void add(const T& tensor, int64_t n) {
    tensors[count] = tensor;
    begin[count + 1] = begin[count] + static_cast<uint32_t>(divide_up(n, kPart));
    ++count;
  }
  uint32_t blocks() const { return begin[count]; }

  // Which tensor holds the part of this block.
  __device__ int tensor() const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (begin[middle + 1] <= blockIdx.x) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  // Where in that tensor it starts.
  __device__ int64_t first(int tensor) const {
    return static_cast<int64_t>(blockIdx.x - begin[tensor]) * kPart;
  }
};

struct Values {
  const float* data;
  int64_t n;
};

__global__ void squares_kernel(const __grid_constant__ Parts<Values> parts, double* partial) {
  const int k = parts.tensor();
  const Values values = parts.tensors[k];
  const int64_t begin = parts.first(k), end = begin + kPart < values.n ? begin + kPart : values.n;
  double sum = 0;
#pragma unroll 8
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const double value = values.data[i];
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void total_kernel(const double* partial, int64_t parts, double* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

struct Updated {
  float* param;
  const float* grad;
  float* m;
  float* v;
  int64_t n;
  float decay;
};

struct Update {
  const double* norm_squared;  // null: no clipping
  double max_norm;
  float beta1, beta2, rest1, rest2, step_size, correction2, eps;
};

__global__ void adamw_kernel(const __grid_constant__ Parts<Updated> parts,
                             const __grid_constant__ Update a) {
  double clip = 1;
  if (a.norm_squared != nullptr) clip = a.max_norm / (sqrt(*a.norm_squared) + 1e-6);
  const float scale = static_cast<float>(clip < 1 || isnan(clip) ? clip : 1);
  const int k = parts.tensor();
  const Updated t = parts.tensors[k];
  const int64_t begin = parts.first(k), end = begin + kPart < t.n ? begin + kPart : t.n;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float g = scale * t.grad[i];
    const float m = fmaf(a.beta1, t.m[i], a.rest1 * g);
    const float v = fmaf(a.beta2, t.v[i], a.rest2 * g * g);
    t.m[i] = m;
    t.v[i] = v;
    const float denominator = sqrtf(v * a.correction2) + a.eps;
    t.param[i] = fmaf(t.decay, t.param[i], -a.step_size * m / denominator);
  }
}

Update update_of(const AdamW& a) {
  const double correction1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double correction2 = 1 - std::pow(a.beta2, static_cast<double>(a.step));
  return {.norm_squared = a.norm_squared ? a.norm_squared.data<double>() : nullptr,
          .max_norm = a.max_norm,
          .beta1 = static_cast<float>(a.beta1),
          .beta2 = static_cast<float>(a.beta2),
          .rest1 = static_cast<float>(1 - a.beta1),
          .rest2 = static_cast<float>(1 - a.beta2),
          .step_size = static_cast<float>(a.lr / correction1),
          .correction2 = static_cast<float>(1 / correction2),
          .eps = static_cast<float>(a.eps)};
}

// Calls run(parts) for as many launches as the tensors need.
template <class T, class Tensors, class Of, class Run>
void for_each_launch(const Tensors& tensors, Of&& of, Run&& run) {
  Parts<T> parts;
  for (const auto& t : tensors) {
    const T tensor = of(t);
    parts.add(tensor, tensor.n);
    if (!parts.full()) continue;
    run(parts);
    parts = {};
  }
  run(parts);
}

}  // namespace

void sum_of_squares(Device& device, const SumOfSquares& a) {
  int64_t count = 0;
  for (const Tensor& t : a.tensors) count += divide_up(t.numel(), kPart);
  const Tensor partial = device.empty(DType::f64, {count});
  double* next = partial.data<double>();
  for_each_launch<Values>(
      a.tensors,
      [](const Tensor& t) {
        return Values{t.data<float>(), t.numel()};
      },
      [&](const Parts<Values>& parts) {
        launch(device, name_of(a.kOp), squares_kernel, grid_of(parts.blocks()), kThreads, 0, parts,
               next);
        next += parts.blocks();
      });
  launch(device, name_of(a.kOp), total_kernel, grid_of(1), kThreads, 0, partial.data<double>(),
         count, a.out.data<double>());
}

void adamw(Device& device, const AdamW& a) {
  const auto updated = [&](const AdamWTensor& t) {
    return Updated{.param = t.param.data<float>(),
                   .grad = t.grad.data<float>(),
                   .m = t.m.data<float>(),
                   .v = t.v.data<float>(),
                   .n = t.param.numel(),
                   .decay = static_cast<float>(t.decay ? 1 - a.lr * a.weight_decay : 1)};
  };
  for_each_launch<Updated>(a.tensors, updated, [&](const Parts<Updated>& parts) {
    launch(device, name_of(a.kOp), adamw_kernel, grid_of(parts.blocks()), kThreads, 0, parts,
           update_of(a));
  });
}

}  // namespace elapse::cuda

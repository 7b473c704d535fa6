// SPDX-License-Identifier: Apache-2.0
// A block a token. Bound: memory, 16 bytes an element forward with a residual, 16 backward, and 8
// more for the sum over tokens. Sums are kept in double, of which memory leaves time for one an
// element.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kTokensOfPart = 64;

struct Forward {
  Rows<const float> x, residual;
  const float* weight;
  double eps;
  Rows<float> sum, y;
  float* scale;
  TapView tap;
  int64_t d_model;
};

__global__ void forward_kernel(const __grid_constant__ Forward a) {
  const int64_t t = blockIdx.x;
  double squares = 0;
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    float v = a.x(t, j);
    if (a.residual.data != nullptr) a.sum(t, j) = v = a.residual(t, j) + v;
    squares += double(v) * v;
  }
  squares = block_sum(squares);
  __shared__ float scale;
  if (threadIdx.x == 0) {
    bool changed = false;
    const float rms = static_cast<float>(sqrt(squares / static_cast<double>(a.d_model) + a.eps));
    a.scale[t] = scale = a.tap.through(rms, t, 0, 0, changed);
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    const float v = a.residual.data != nullptr ? a.sum(t, j) : a.x(t, j);
    a.y(t, j) = a.weight[j] * v / scale;
  }
}

struct Backward {
  Rows<const float> dy, dsum, sum;
  const float* weight;
  const float* scale;
  double eps;
  TapView tap;
  Rows<float> dsum_total;
  int64_t tokens, d_model;
};

__global__ void backward_kernel(const __grid_constant__ Backward a) {
  const int64_t t = blockIdx.x;
  double squares = 0, projection = 0;
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    const float v = a.sum(t, j);
    squares += double(v) * v;
    projection += double(a.dy(t, j)) * a.weight[j] * v;
  }
  squares = block_sum(squares);
  projection = block_sum(projection);
  const double scale = a.scale[t], n = static_cast<double>(a.d_model);
  __shared__ float drms;
  if (threadIdx.x == 0) {
    drms = a.tap.back(static_cast<float>(-projection / (scale * scale)), t, 0, 0);
  }
  __syncthreads();
  const float along = static_cast<float>(drms / (n * sqrt(squares / n + a.eps)));
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    const float later = a.dsum.data != nullptr ? a.dsum(t, j) : 0.0f;
    a.dsum_total(t, j) = later + a.dy(t, j) * a.weight[j] / a.scale[t] + along * a.sum(t, j);
  }
}

__global__ void weight_parts_kernel(const __grid_constant__ Backward a, float* partial) {
  const int64_t j = blockIdx.y * int64_t{blockDim.x} + threadIdx.x;
  if (j >= a.d_model) return;
  const int64_t begin = blockIdx.x * kTokensOfPart;
  const int64_t end = begin + kTokensOfPart < a.tokens ? begin + kTokensOfPart : a.tokens;
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) sum += a.dy(t, j) * a.sum(t, j) / a.scale[t];
  partial[blockIdx.x * a.d_model + j] = sum;
}

}  // namespace

void rms_norm_forward(Device& device, const RmsNormForward& a) {
  if (a.x.numel() == 0) return;
  TapViews views(device);
  const Forward args = {Rows<const float>(a.x),
                        Rows<const float>(a.residual),
                        a.weight.data<float>(),
                        a.eps,
                        Rows<float>(a.residual ? a.sum : a.x),
                        Rows<float>(a.y),
                        a.scale.data<float>(),
                        views.view(a.scale_tap, 1),
                        a.x.dim(1)};
  launch(device, name_of(a.kOp), forward_kernel, grid_of(a.x.dim(0)), kThreads, 0, args);
}

void rms_norm_backward(Device& device, const RmsNormBackward& a) {
  const int64_t tokens = a.dy.dim(0), d_model = a.dy.dim(1);
  if (a.dy.numel() == 0) return;
  TapViews views(device);
  const Backward args = {Rows<const float>(a.dy),
                         Rows<const float>(a.dsum),
                         Rows<const float>(a.sum),
                         a.weight.data<float>(),
                         a.scale.data<float>(),
                         a.eps,
                         views.view(a.scale_tap, 1),
                         Rows<float>(a.dsum_total),
                         tokens,
                         d_model};
  launch(device, name_of(a.kOp), backward_kernel, grid_of(tokens), kThreads, 0, args);
  const int64_t parts = divide_up(tokens, kTokensOfPart);
  const Tensor partial = device.empty(DType::f32, {parts, d_model});
  launch(device, name_of(a.kOp), weight_parts_kernel, grid_of(parts, divide_up(d_model, kThreads)),
         kThreads, 0, args, partial.data<float>());
  add_parts(device, partial.data<float>(), parts, d_model, a.dweight.data<float>());
}

}  // namespace elapse::cuda

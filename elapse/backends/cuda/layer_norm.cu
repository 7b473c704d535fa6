// SPDX-License-Identifier: Apache-2.0
// A block a token, whose row stays in the cache between its passes. Bound: memory, 16 bytes an
// element forward with a residual, 16 backward, and 8 more for the sums over tokens; with x and y
// in bf16, whose sum is float32, 12, 16 and 6. Sums are kept in double.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kTokensOfPart = 64;

// sqrt(mean((v - mean)^2) + eps) of a row, in every thread.
__device__ double deviation(const float* v, float mean, int64_t d_model, double eps) {
  double squares = 0;
  for (int64_t j = threadIdx.x; j < d_model; j += kThreads) {
    const double centered = double(v[j]) - mean;
    squares += centered * centered;
  }
  return sqrt(block_sum(squares) / static_cast<double>(d_model) + eps);
}

// X is x's type, Y y's.
template <class X, class Y>
struct Forward {
  Rows<const X> x;
  Rows<const float> residual;
  const float* weight;
  const float* bias;
  double eps;
  Rows<float> sum;  // none where there is no residual: x, which is float then
  Rows<Y> y;
  float* mean;
  float* scale;
  TapView tap;
  int64_t d_model;
};

template <class X, class Y>
__global__ void forward_kernel(const __grid_constant__ Forward<X, Y> a) {
  const int64_t t = blockIdx.x;
  double total = 0;
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    float v = a.x(t, j);
    if (a.residual.data != nullptr) a.sum(t, j) = v = a.residual(t, j) + v;
    total += v;
  }
  const float mean = static_cast<float>(block_sum(total) / static_cast<double>(a.d_model));
  const float* v = a.sum.row(t);
  if constexpr (std::is_same_v<X, float>) {
    if (a.residual.data == nullptr) v = a.x.row(t);
  }
  const float unedited = static_cast<float>(deviation(v, mean, a.d_model, a.eps));
  __shared__ float scale;
  if (threadIdx.x == 0) {
    bool changed = false;
    a.mean[t] = mean;
    a.scale[t] = scale = a.tap.through(unedited, t, 0, 0, changed);
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    a.y(t, j) = static_cast<Y>(a.weight[j] * (v[j] - mean) / scale + a.bias[j]);
  }
}

template <class Y>
struct Backward {
  Rows<const Y> dy;
  Rows<const float> dsum, sum;
  const float* weight;
  const float* mean;
  const float* scale;
  double eps;
  TapView tap;
  Rows<float> dsum_total;
  Rows<Y> dx;  // or none
  int64_t tokens, d_model;
};

// With c = sum - mean, g = weight dy, s the scale y used and r the unedited one:
//   dsum_j = (g_j - mean(g)) / s + dr c_j / (d_model r),  dr = slope ds,  ds = -sum_j(g_j c_j) /
//   s^2
template <class Y>
__global__ void backward_kernel(const __grid_constant__ Backward<Y> a) {
  const int64_t t = blockIdx.x;
  const float mean = a.mean[t];
  double total = 0, projection = 0;
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    const double g = double(a.weight[j]) * static_cast<float>(a.dy(t, j));
    total += g;
    projection += g * (double(a.sum(t, j)) - mean);
  }
  total = block_sum(total);
  projection = block_sum(projection);
  const double unedited = deviation(a.sum.row(t), mean, a.d_model, a.eps);
  const double scale = a.scale[t], n = static_cast<double>(a.d_model);
  __shared__ float dscale;
  if (threadIdx.x == 0) {
    dscale = a.tap.back(static_cast<float>(-projection / (scale * scale)), t, 0, 0);
  }
  __syncthreads();
  const double along = dscale / (n * unedited);
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    const double later = a.dsum.data != nullptr ? a.dsum(t, j) : 0.0f;
    const double g = double(a.weight[j]) * static_cast<float>(a.dy(t, j));
    const auto dsum =
        static_cast<float>(later + (g - total / n) / scale + along * (double(a.sum(t, j)) - mean));
    a.dsum_total(t, j) = dsum;
    if (a.dx.data != nullptr) a.dx(t, j) = static_cast<Y>(dsum);
  }
}

// Gradients of weight and bias, (2, parts, d_model): sums over kTokensOfPart tokens each.
template <class Y>
__global__ void parts_kernel(const __grid_constant__ Backward<Y> a, float* partial) {
  const int64_t j = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (j >= a.d_model) return;
  const int64_t begin = blockIdx.x * kTokensOfPart;
  const int64_t end = begin + kTokensOfPart < a.tokens ? begin + kTokensOfPart : a.tokens;
  float dweight = 0, dbias = 0;
  for (int64_t t = begin; t < end; ++t) {
    const float dy = a.dy(t, j);
    dweight += dy * (a.sum(t, j) - a.mean[t]) / a.scale[t];
    dbias += dy;
  }
  partial[blockIdx.x * a.d_model + j] = dweight;
  partial[(int64_t{gridDim.x} + blockIdx.x) * a.d_model + j] = dbias;
}

template <class X, class Y>
void forward(Device& device, const LayerNormForward& a) {
  if (a.x.numel() == 0) return;
  TapViews views(device);
  const Forward<X, Y> args = {Rows<const X>(a.x),
                              Rows<const float>(a.residual),
                              a.weight.data<float>(),
                              a.bias.data<float>(),
                              a.eps,
                              Rows<float>(a.sum),
                              Rows<Y>(a.y),
                              a.mean.data<float>(),
                              a.scale.data<float>(),
                              views.view(a.scale_tap, 1),
                              a.x.dim(1)};
  launch(device, name_of(a.kOp), forward_kernel<X, Y>, grid_of(a.x.dim(0)), kThreads, 0, args);
}

template <class Y>
void backward(Device& device, const LayerNormBackward& a) {
  if (a.dy.numel() == 0) return;
  const int64_t tokens = a.dy.dim(0), d_model = a.dy.dim(1);
  const int64_t parts = divide_up(tokens, kTokensOfPart);
  TapViews views(device);
  const Backward<Y> args = {Rows<const Y>(a.dy),
                            Rows<const float>(a.dsum),
                            Rows<const float>(a.sum),
                            a.weight.data<float>(),
                            a.mean.data<float>(),
                            a.scale.data<float>(),
                            a.eps,
                            views.view(a.scale_tap, 1),
                            Rows<float>(a.dsum_total),
                            Rows<Y>(a.dx),
                            tokens,
                            d_model};
  const Tensor partial = device.empty(DType::f32, {2, parts, d_model});
  launch(device, name_of(a.kOp), parts_kernel<Y>, grid_of(parts, divide_up(d_model, kThreads)),
         kThreads, 0, args, partial.data<float>());
  launch(device, name_of(a.kOp), backward_kernel<Y>, grid_of(tokens), kThreads, 0, args);
  add_parts(device, partial.data<float>(), parts, d_model, a.dweight.data<float>());
  add_parts(device, partial.data<float>() + parts * d_model, parts, d_model, a.dbias.data<float>());
}

}  // namespace

void layer_norm_forward(Device& device, const LayerNormForward& a) {
  if (a.y.dtype() == DType::f32) return forward<float, float>(device, a);
  if (a.residual) forward<bf16, bf16>(device, a);
  else forward<float, bf16>(device, a);
}

void layer_norm_backward(Device& device, const LayerNormBackward& a) {
  if (a.dy.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// A block a token and group, or, backward, kTokensOfPart tokens one after another. Bound: memory,
// 12 bytes an element forward and 20 backward, half of it in bf16. Rows of up to kMostOwn numbers a
// thread stay in registers; wider and tapped ones are read again, and backward once more for the
// sum over tokens. Sums of a row are kept in double.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kTokensOfPart = 16;
constexpr int kMostOwn = 32;

template <class T>
struct Inputs {
  Rows<const T> x, z;
  const float* weight;
  double eps;
  TapView gate, gated, scale;
  int64_t d_inner, n_groups;

  __device__ int64_t width() const { return d_inner / n_groups; }
  __device__ float gate_at(int64_t t, int64_t j) const {
    bool changed = false;
    return gate.through(silu(static_cast<float>(z(t, j))), t, j, 0, changed);
  }
  __device__ float gated_at(int64_t t, int64_t j) const {
    bool changed = false;
    return gated.through(static_cast<float>(x(t, j)) * gate_at(t, j), t, j, 0, changed);
  }
};

// What untapped kernels have of a row: number k of a thread is element threadIdx.x + k kThreads.
template <int kOwn, class Use>
__device__ void for_own(int64_t width, Use&& use) {
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int64_t i = threadIdx.x + int64_t{k} * kThreads;
    if (i < width) use(k, i);
  }
}

// Root mean square of a group, before any edit of the scale, in every thread.
template <class T>
__device__ double rms_of(const Inputs<T>& in, int64_t t, int64_t begin) {
  double squares = 0;
  for (int64_t i = threadIdx.x; i < in.width(); i += kThreads) {
    const float v = in.gated_at(t, begin + i);
    squares += double(v) * v;
  }
  return sqrt(block_sum(squares) / static_cast<double>(in.width()) + in.eps);
}

template <class T>
__global__ void forward_kernel(const __grid_constant__ Inputs<T> in, float* scales, Rows<T> y) {
  const int64_t t = blockIdx.x, group = blockIdx.y, begin = group * in.width();
  const float rms = static_cast<float>(rms_of(in, t, begin));
  __shared__ float scale;
  if (threadIdx.x == 0) {
    bool changed = false;
    scales[t * in.n_groups + group] = scale = in.scale.through(rms, t, group, 0, changed);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < in.width(); i += kThreads) {
    const int64_t j = begin + i;
    y(t, j) = static_cast<T>(in.weight[j] * in.gated_at(t, j) / scale);
  }
}

template <class T, int kOwn>
__global__ void __launch_bounds__(kThreads)
    own_forward_kernel(const __grid_constant__ Inputs<T> in, float* scales, Rows<T> y) {
  const int64_t t = blockIdx.x, group = blockIdx.y, width = in.width(), begin = group * width;
  const T *x = in.x.row(t) + begin, *z = in.z.row(t) + begin;
  float gated[kOwn];
  for_own<kOwn>(width, [&](int k, int64_t i) {
    gated[k] = static_cast<float>(x[i]) * silu(static_cast<float>(z[i]));
  });
  double squares = 0;
  for_own<kOwn>(width, [&](int k, int64_t) { squares += double(gated[k]) * gated[k]; });
  const float scale =
      static_cast<float>(sqrt(block_sum(squares) / static_cast<double>(width) + in.eps));
  if (threadIdx.x == 0) scales[t * in.n_groups + group] = scale;
  T* to = y.row(t) + begin;
  for_own<kOwn>(width, [&](int k, int64_t i) {
    to[i] = static_cast<T>(in.weight[begin + i] * gated[k] / scale);
  });
}

template <class T>
struct Backward {
  Inputs<T> in;
  Rows<const T> dy;
  const float* scales;  // (tokens, n_groups)
  Rows<T> dx, dz;
  int64_t tokens;

  __device__ float dy_at(int64_t t, int64_t j) const { return static_cast<float>(dy(t, j)); }
};

template <class T>
__global__ void backward_kernel(const __grid_constant__ Backward<T> a) {
  const Inputs<T>& in = a.in;
  const int64_t t = blockIdx.x, group = blockIdx.y, begin = group * in.width();
  double projection = 0;
  for (int64_t i = threadIdx.x; i < in.width(); i += kThreads) {
    const int64_t j = begin + i;
    projection += double(a.dy_at(t, j)) * in.weight[j] * in.gated_at(t, j);
  }
  projection = block_sum(projection);
  const double rms = rms_of(in, t, begin), scale = a.scales[t * in.n_groups + group];
  __shared__ float dscale;
  if (threadIdx.x == 0) {
    dscale = in.scale.back(static_cast<float>(-projection / (scale * scale)), t, group, 0);
  }
  __syncthreads();
  const double along = dscale / (static_cast<double>(in.width()) * rms);
  for (int64_t i = threadIdx.x; i < in.width(); i += kThreads) {
    const int64_t j = begin + i;
    const float total =
        static_cast<float>(a.dy_at(t, j) * in.weight[j] / scale + along * in.gated_at(t, j));
    const float dgated = in.gated.back(total, t, j, 0);
    const float dgate = in.gate.back(dgated * static_cast<float>(in.x(t, j)), t, j, 0);
    a.dz(t, j) = static_cast<T>(dgate * silu_slope(static_cast<float>(in.z(t, j))));
    a.dx(t, j) = static_cast<T>(dgated * in.gate_at(t, j));
  }
}

// The three kernels in one.
template <class T, int kOwn>
__global__ void __launch_bounds__(kThreads)
    own_backward_kernel(const __grid_constant__ Backward<T> a, float* partial) {
  const Inputs<T>& in = a.in;
  const int64_t group = blockIdx.y, width = in.width(), begin = group * width;
  const int64_t first = blockIdx.x * kTokensOfPart;
  const int64_t end = first + kTokensOfPart < a.tokens ? first + kTokensOfPart : a.tokens;
  float dweight[kOwn] = {};
  for (int64_t t = first; t < end; ++t) {
    const T *x = in.x.row(t) + begin, *z = in.z.row(t) + begin, *dy = a.dy.row(t) + begin;
    float of_x[kOwn], of_z[kOwn], of_dy[kOwn];
    for_own<kOwn>(width, [&](int k, int64_t i) {
      of_x[k] = static_cast<float>(x[i]);
      of_z[k] = static_cast<float>(z[i]);
      of_dy[k] = static_cast<float>(dy[i]);
    });
    double projection = 0, squares = 0;
    const float scale = a.scales[t * in.n_groups + group];
    for_own<kOwn>(width, [&](int k, int64_t i) {
      const float gated = of_x[k] * silu(of_z[k]);
      projection += double(of_dy[k]) * in.weight[begin + i] * gated;
      squares += double(gated) * gated;
      dweight[k] += of_dy[k] * gated / scale;
    });
    projection = block_sum(projection);
    const double rms = sqrt(block_sum(squares) / static_cast<double>(width) + in.eps);
    const float dscale = static_cast<float>(-projection / (double(scale) * scale));
    const double along = dscale / (static_cast<double>(width) * rms);
    T *dx = a.dx.row(t) + begin, *dz = a.dz.row(t) + begin;
    for_own<kOwn>(width, [&](int k, int64_t i) {
      const float gate = silu(of_z[k]);
      const float dgated = static_cast<float>(of_dy[k] * in.weight[begin + i] / double(scale) +
                                              along * (of_x[k] * gate));
      dz[i] = static_cast<T>(dgated * of_x[k] * silu_slope(of_z[k]));
      dx[i] = static_cast<T>(dgated * gate);
    });
  }
  for_own<kOwn>(
      width, [&](int k, int64_t i) { partial[blockIdx.x * in.d_inner + begin + i] = dweight[k]; });
}

template <class T>
__global__ void parts_kernel(const __grid_constant__ Backward<T> a, float* partial) {
  const int64_t j = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (j >= a.in.d_inner) return;
  const int64_t begin = blockIdx.x * kTokensOfPart, group = j / a.in.width();
  const int64_t end = begin + kTokensOfPart < a.tokens ? begin + kTokensOfPart : a.tokens;
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    sum += a.dy_at(t, j) * a.in.gated_at(t, j) / a.scales[t * a.in.n_groups + group];
  }
  partial[blockIdx.x * a.in.d_inner + j] = sum;
}

template <class T>
Inputs<T> inputs_of(const GatedRmsNormInputs& in, TapViews& views) {
  const int64_t d_inner = in.x.dim(1);
  return {Rows<const T>(in.x),
          Rows<const T>(in.z),
          in.weight.data<float>(),
          in.eps,
          views.view(in.gate_tap, d_inner),
          views.view(in.gated_tap, d_inner),
          views.view(in.scale_tap, in.n_groups),
          d_inner,
          in.n_groups};
}

// Calls run(std::integral_constant of the numbers a thread keeps), where a row's are few enough and
// none is tapped; else gives false.
template <class Run>
bool with_own(const GatedRmsNormInputs& in, bool tapped, Run&& run) {
  const int64_t own = divide_up(in.x.dim(1) / in.n_groups, kThreads);
  if (tapped || own > kMostOwn) return false;
  if (own <= 4) run(std::integral_constant<int, 4>());
  else if (own <= 12) run(std::integral_constant<int, 12>());
  else run(std::integral_constant<int, kMostOwn>());
  return true;
}

template <class T>
void forward(Device& device, const GatedRmsNormForward& a) {
  if (a.y.numel() == 0) return;
  TapViews views(device);
  const bool tapped = a.in.gate_tap.is_active_forward() || a.in.gated_tap.is_active_forward() ||
                      a.in.scale_tap.is_active_forward();
  const bool done = with_own(a.in, tapped, [&]<int kOwn>(std::integral_constant<int, kOwn>) {
    launch(device, name_of(a.kOp), own_forward_kernel<T, kOwn>,
           grid_of(a.in.x.dim(0), a.in.n_groups), kThreads, 0, inputs_of<T>(a.in, views),
           a.scale.data<float>(), Rows<T>(a.y));
  });
  if (done) return;
  launch(device, name_of(a.kOp), forward_kernel<T>, grid_of(a.in.x.dim(0), a.in.n_groups), kThreads,
         0, inputs_of<T>(a.in, views), a.scale.data<float>(), Rows<T>(a.y));
}

template <class T>
void backward(Device& device, const GatedRmsNormBackward& a) {
  if (a.dy.numel() == 0) return;
  const int64_t tokens = a.dy.dim(0), d_inner = a.dy.dim(1);
  const int64_t parts = divide_up(tokens, kTokensOfPart);
  TapViews views(device);
  const Backward<T> args = {inputs_of<T>(a.in, views),
                            Rows<const T>(a.dy),
                            a.scale.data<float>(),
                            Rows<T>(a.dx),
                            Rows<T>(a.dz),
                            tokens};
  const Tensor partial = device.empty(DType::f32, Shape{parts, d_inner});
  const bool tapped = a.in.gate_tap.is_active_backward() || a.in.gated_tap.is_active_backward() ||
                      a.in.scale_tap.is_active_backward();
  const bool done = with_own(a.in, tapped, [&]<int kOwn>(std::integral_constant<int, kOwn>) {
    launch(device, name_of(a.kOp), own_backward_kernel<T, kOwn>, grid_of(parts, a.in.n_groups),
           kThreads, 0, args, partial.data<float>());
  });
  if (!done) {
    launch(device, name_of(a.kOp), parts_kernel<T>, grid_of(parts, divide_up(d_inner, kThreads)),
           kThreads, 0, args, partial.data<float>());
    launch(device, name_of(a.kOp), backward_kernel<T>, grid_of(tokens, a.in.n_groups), kThreads, 0,
           args);
  }
  add_parts(device, partial.data<float>(), parts, d_inner, a.dweight.data<float>());
}

}  // namespace

void gated_rms_norm_forward(Device& device, const GatedRmsNormForward& a) {
  if (a.in.x.dtype() == DType::bf16) forward<bf16>(device, a);
  else forward<float>(device, a);
}

void gated_rms_norm_backward(Device& device, const GatedRmsNormBackward& a) {
  if (a.in.x.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda

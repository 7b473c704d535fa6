// SPDX-License-Identifier: Apache-2.0
// A warp a token, whose channels are in its registers, where rows are aligned for pairs and not too
// long; forward a block a token, likewise, where rows are longer or tokens too few for all
// multiprocessors; else a block that reads them twice. Bound: memory, 16 bytes an element forward
// with a residual, 16 backward, and 8 more for the sum over tokens; with x and y in bf16, whose sum
// is float32, 12, 16 and 6. Sums are kept in double, of which memory leaves time for one an
// element; backward a pair's two terms are added in float before.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kTokensOfPart = 64;
constexpr int kWarps = kThreads / 32;
constexpr int kMostPairs = 16;  // of channels, of a lane
constexpr int kPairsOfThread = 8;
constexpr int64_t kFewTokens = 256;

// X, of x; Y, of y. A sum is float; where there is none x stands in its place.
template <class X, class Y>
struct Forward {
  Rows<const X> x;
  Rows<const float> residual;
  const float* weight;
  double eps;
  Rows<float> sum;
  Rows<Y> y;
  float* scale;
  TapView tap;
  int64_t d_model;

  __device__ float value(int64_t t, int64_t j) const {
    return residual.data != nullptr ? sum(t, j) : static_cast<float>(x(t, j));
  }
};

template <class X, class Y>
__global__ void forward_kernel(const __grid_constant__ Forward<X, Y> a) {
  const int64_t t = blockIdx.x;
  double squares = 0;
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    float v = static_cast<float>(a.x(t, j));
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
    a.y(t, j) = static_cast<Y>(a.weight[j] * a.value(t, j) / scale);
  }
}

// Calls visit(pair, channel) for the pairs of channels of this lane.
template <int kPairs, class Visit>
__device__ void for_each_pair(int64_t d_model, Visit&& visit) {
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    const int64_t j = 2 * (threadIdx.x % 32 + 32 * k);
    if (j < d_model) visit(k, j);
  }
}

template <int kPairs, class X, class Y>
__global__ void warp_forward_kernel(const __grid_constant__ Forward<X, Y> a, int64_t tokens) {
  const int64_t t = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (t >= tokens) return;
  float2 v[kPairs];
  for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) { v[k] = load_pair(a.x.row(t) + j); });
  if (a.residual.data != nullptr) {
    for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) {
      const float2 r = load_pair(a.residual.row(t) + j);
      v[k] = {r.x + v[k].x, r.y + v[k].y};
    });
    for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) { store_pair(a.sum.row(t) + j, v[k]); });
  }
  double squares = 0;
  for_each_pair<kPairs>(a.d_model, [&](int k, int64_t) {
    squares += double(v[k].x) * v[k].x + double(v[k].y) * v[k].y;
  });
  squares = warp_sum(squares);
  float scale = static_cast<float>(sqrt(squares / static_cast<double>(a.d_model) + a.eps));
  if (threadIdx.x % 32 == 0) {
    bool changed = false;
    a.scale[t] = scale = a.tap.through(scale, t, 0, 0, changed);
  }
  const float inverse = 1.0f / __shfl_sync(~0u, scale, 0);
  for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) {
    const float2 w = load_pair(a.weight + j);
    store_pair(a.y.row(t) + j, {w.x * v[k].x * inverse, w.y * v[k].y * inverse});
  });
}

template <class X, class Y>
__global__ void __launch_bounds__(kThreads)
    block_forward_kernel(const __grid_constant__ Forward<X, Y> a) {
  start_next();
  const int64_t t = blockIdx.x;
  float2 weight[kPairsOfThread], v[kPairsOfThread];
  const auto for_each = [&](auto&& visit) {
#pragma unroll
    for (int k = 0; k < kPairsOfThread; ++k) {
      const int64_t j = 2 * (static_cast<int>(threadIdx.x) + k * kThreads);
      if (j < a.d_model) visit(k, j);
    }
  };
  for_each([&](int k, int64_t j) { weight[k] = load_pair(a.weight + j); });
  wait_for_earlier();
  for_each([&](int k, int64_t j) { v[k] = load_pair(a.x.row(t) + j); });
  if (a.residual.data != nullptr) {
    for_each([&](int k, int64_t j) {
      const float2 r = load_pair(a.residual.row(t) + j);
      v[k] = {r.x + v[k].x, r.y + v[k].y};
    });
    for_each([&](int k, int64_t j) { store_pair(a.sum.row(t) + j, v[k]); });
  }
  double squares = 0;
  for_each([&](int k, int64_t) { squares += double(v[k].x) * v[k].x + double(v[k].y) * v[k].y; });
  squares = block_sum(squares);
  __shared__ float scale;
  if (threadIdx.x == 0) {
    bool changed = false;
    const float rms = static_cast<float>(sqrt(squares / static_cast<double>(a.d_model) + a.eps));
    a.scale[t] = scale = a.tap.through(rms, t, 0, 0, changed);
  }
  __syncthreads();
  const float inverse = 1.0f / scale;
  for_each([&](int k, int64_t j) {
    store_pair(a.y.row(t) + j, {weight[k].x * v[k].x * inverse, weight[k].y * v[k].y * inverse});
  });
}

// S, of what was normed; Y, of y.
template <class S, class Y>
struct Backward {
  Rows<const Y> dy;
  Rows<const S> dsum, sum;
  const float* weight;
  const float* scale;
  double eps;
  TapView tap;
  Rows<S> dsum_total;
  Rows<Y> dx;
  int64_t tokens, d_model;
};

template <class S, class Y>
__global__ void backward_kernel(const __grid_constant__ Backward<S, Y> a) {
  const int64_t t = blockIdx.x;
  double squares = 0, projection = 0;
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    const float v = static_cast<float>(a.sum(t, j));
    squares += double(v) * v;
    projection += double(static_cast<float>(a.dy(t, j))) * a.weight[j] * v;
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
    const float later = a.dsum.data != nullptr ? static_cast<float>(a.dsum(t, j)) : 0.0f;
    const float through_y = static_cast<float>(a.dy(t, j)) * a.weight[j] / a.scale[t];
    const float total = later + through_y + along * static_cast<float>(a.sum(t, j));
    a.dsum_total(t, j) = static_cast<S>(total);
    if (a.dx.data != nullptr) a.dx(t, j) = static_cast<Y>(total);
  }
}

template <class S, class Y>
__global__ void weight_parts_kernel(const __grid_constant__ Backward<S, Y> a, float* partial) {
  const int64_t j = blockIdx.y * int64_t{blockDim.x} + threadIdx.x;
  if (j >= a.d_model) return;
  const int64_t begin = blockIdx.x * kTokensOfPart;
  const int64_t end = begin + kTokensOfPart < a.tokens ? begin + kTokensOfPart : a.tokens;
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    sum += static_cast<float>(a.dy(t, j)) * static_cast<float>(a.sum(t, j)) / a.scale[t];
  }
  partial[blockIdx.x * a.d_model + j] = sum;
}

// What a lane reads of a token.
template <int kPairs, class S, class Y>
struct TokenRows {
  Pair<S> sum[kPairs], dsum[kPairs];
  Pair<Y> dy[kPairs];
  float scale;

  __device__ void load(const Backward<S, Y>& a, int64_t t) {
    const S *of_sum = a.sum.row(t), *of_dsum = a.dsum.row(t);
    const Y* of_dy = a.dy.row(t);
    scale = a.scale[t];
    for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) {
      sum[k] = read_pair(of_sum + j);
      dy[k] = read_pair(of_dy + j);
      if (a.dsum.data != nullptr) dsum[k] = read_pair(of_dsum + j);
    });
  }
};

// The same, with the weight's gradient over a block's tokens, of which a warp takes one after
// another and reads the next while it computes.
template <int kPairs, class S, class Y>
__global__ void __launch_bounds__(kThreads, 1)
    warp_backward_kernel(const __grid_constant__ Backward<S, Y> a, float* partial) {
  extern __shared__ float of_block[];  // (d_model)
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const double of_one = 1.0 / static_cast<double>(a.d_model);
  const int64_t begin = blockIdx.x * kTokensOfPart;
  const int64_t end = begin + kTokensOfPart < a.tokens ? begin + kTokensOfPart : a.tokens;
  float2 dweight[kPairs] = {};
  TokenRows<kPairs, S, Y> next;
  if (begin + warp < end) next.load(a, begin + warp);
  for (int64_t t = begin + warp; t < end; t += kWarps) {
    const TokenRows<kPairs, S, Y> now = next;
    if (t + kWarps < end) next.load(a, t + kWarps);
    float2 dy[kPairs];
    double squares = 0, projection = 0;
    const float inverse = 1.0f / now.scale;
    for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) {
      const float2 v = now.sum[k].wide(), g = now.dy[k].wide(), w = load_pair(a.weight + j);
      squares += fmaf(v.x, v.x, v.y * v.y);
      dweight[k] = {fmaf(g.x * v.x, inverse, dweight[k].x), fmaf(g.y * v.y, inverse, dweight[k].y)};
      dy[k] = {g.x * w.x, g.y * w.y};
      projection += fmaf(dy[k].x, v.x, dy[k].y * v.y);
    });
    squares = warp_sum(squares);
    projection = warp_sum(projection);
    float drms = static_cast<float>(-projection) * inverse * inverse;
    if (threadIdx.x % 32 == 0) drms = a.tap.back(drms, t, 0, 0);
    drms = __shfl_sync(~0u, drms, 0);
    const float rms = sqrtf(static_cast<float>(squares * of_one + a.eps));
    const float along = drms * static_cast<float>(of_one) / rms;
    S* dsum_total = a.dsum_total.row(t);
    Y* dx = a.dx.data == nullptr ? nullptr : a.dx.row(t);
    for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) {
      const float2 v = now.sum[k].wide();
      float2 total = {fmaf(dy[k].x, inverse, along * v.x), fmaf(dy[k].y, inverse, along * v.y)};
      if (a.dsum.data != nullptr) {
        const float2 later = now.dsum[k].wide();
        total = {later.x + total.x, later.y + total.y};
      }
      store_pair(dsum_total + j, total);
      if (dx != nullptr) store_pair(dx + j, total);
    });
  }
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
      for_each_pair<kPairs>(a.d_model, [&](int k, int64_t j) {
        float2 sum = dweight[k];
        if (turn > 0) sum = {of_block[j] + sum.x, of_block[j + 1] + sum.y};
        of_block[j] = sum.x;
        of_block[j + 1] = sum.y;
      });
    }
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < a.d_model; j += kThreads) {
    partial[blockIdx.x * a.d_model + j] = of_block[j];
  }
}

// Whether every row can be read in pairs.
template <class... Matrices>
bool has_pairs(int64_t d_model, const float* weight, const Matrices&... matrices) {
  return d_model % 2 == 0 && reinterpret_cast<uintptr_t>(weight) % sizeof(float2) == 0 &&
         (matrices.has_pairs() && ...);
}

// Whether a warp's registers hold a row of pairs.
template <class... Matrices>
bool suits_warps(int64_t d_model, const float* weight, const Matrices&... matrices) {
  return d_model <= 64 * kMostPairs && has_pairs(d_model, weight, matrices...);
}

// Calls run(std::integral_constant of a lane's pairs).
template <class Run>
void with_pairs(int64_t d_model, Run&& run) {
  if (d_model <= 64 * 12) run(std::integral_constant<int, 12>());  // 130m's rows leave more warps
  else run(std::integral_constant<int, kMostPairs>());
}

template <class X, class Y>
void forward(Device& device, const RmsNormForward& a) {
  TapViews views(device);
  const Forward<X, Y> args = {Rows<const X>(a.x),
                              Rows<const float>(a.residual),
                              a.weight.data<float>(),
                              a.eps,
                              Rows<float>(a.sum),
                              Rows<Y>(a.y),
                              a.scale.data<float>(),
                              views.view(a.scale_tap, 1),
                              a.x.dim(1)};
  const int64_t tokens = a.x.dim(0);
  const bool suits_block =
      args.d_model <= 2 * kThreads * kPairsOfThread &&
      has_pairs(args.d_model, args.weight, args.x, args.residual, args.sum, args.y);
  if (suits_block && tokens <= kFewTokens) {
    return launch_in_chain(device, name_of(a.kOp), block_forward_kernel<X, Y>,
                           {grid_of(tokens), kThreads}, args);
  }
  if (!suits_warps(args.d_model, args.weight, args.x, args.residual, args.sum, args.y)) {
    return launch(device, name_of(a.kOp),
                  suits_block ? block_forward_kernel<X, Y> : forward_kernel<X, Y>, grid_of(tokens),
                  kThreads, 0, args);
  }
  with_pairs(args.d_model, [&]<int kPairs>(std::integral_constant<int, kPairs>) {
    launch(device, name_of(a.kOp), warp_forward_kernel<kPairs, X, Y>,
           grid_of(divide_up(tokens, kWarps)), kThreads, 0, args, tokens);
  });
}

template <class S, class Y>
void backward(Device& device, const RmsNormBackward& a) {
  const int64_t tokens = a.dy.dim(0), d_model = a.dy.dim(1);
  TapViews views(device);
  const Backward<S, Y> args = {Rows<const Y>(a.dy),
                               Rows<const S>(a.dsum),
                               Rows<const S>(a.sum),
                               a.weight.data<float>(),
                               a.scale.data<float>(),
                               a.eps,
                               views.view(a.scale_tap, 1),
                               Rows<S>(a.dsum_total),
                               Rows<Y>(a.dx),
                               tokens,
                               d_model};
  const int64_t parts = divide_up(tokens, kTokensOfPart);
  const Tensor partial = device.empty(DType::f32, {parts, d_model});
  if (suits_warps(d_model, args.weight, args.dy, args.dsum, args.sum, args.dsum_total, args.dx)) {
    with_pairs(d_model, [&]<int kPairs>(std::integral_constant<int, kPairs>) {
      launch(device, name_of(a.kOp), warp_backward_kernel<kPairs, S, Y>, grid_of(parts), kThreads,
             static_cast<int>(d_model * int64_t{sizeof(float)}), args, partial.data<float>());
    });
  } else {
    launch(device, name_of(a.kOp), backward_kernel<S, Y>, grid_of(tokens), kThreads, 0, args);
    launch(device, name_of(a.kOp), weight_parts_kernel<S, Y>,
           grid_of(parts, divide_up(d_model, kThreads)), kThreads, 0, args, partial.data<float>());
  }
  add_parts(device, partial.data<float>(), parts, d_model, a.dweight.data<float>());
}

}  // namespace

void rms_norm_forward(Device& device, const RmsNormForward& a) {
  if (a.x.numel() == 0) return;
  const bool wide_x = a.x.dtype() == DType::f32;
  if (a.y.dtype() == DType::f32) return forward<float, float>(device, a);
  return wide_x ? forward<float, bf16>(device, a) : forward<bf16, bf16>(device, a);
}

void rms_norm_backward(Device& device, const RmsNormBackward& a) {
  if (a.dy.numel() == 0) return;
  const bool wide_sum = a.sum.dtype() == DType::f32;
  if (a.dy.dtype() == DType::f32) return backward<float, float>(device, a);
  return wide_sum ? backward<float, bf16>(device, a) : backward<bf16, bf16>(device, a);
}

}  // namespace elapse::cuda

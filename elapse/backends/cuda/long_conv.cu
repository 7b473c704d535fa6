// SPDX-License-Identifier: Apache-2.0
// Sums as they are defined, a lane a channel: a thread makes 16 outputs (or 16 of the filter's
// gradients) of its channel, 16 lags at a time, whose 31 inputs are in its registers. Bound: fused
// multiply-adds, tokens len / 2 a channel each for y, dx and dK; by Fourier transforms, which this
// backend does not have, they would be some 20 log2 len a token. At 67 TFLOP/s and 768 channels,
// 16384 tokens of 2048 are 0.4 ms, of 16384 3 ms.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = 16;  // outputs of a thread, and lags at a time
constexpr int kWindow = 2 * kRun - 1;

struct View {
  const float* filter;  // (filter_len, d_inner)
  const int64_t* cu;
  int64_t n_seqs, d_inner, filter_len;
};

__global__ void turn_kernel(const float* K, int64_t d_inner, int64_t filter_len, float* filter) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x, j = blockIdx.x;
  if (e < d_inner) filter[j * d_inner + e] = K[e * filter_len + j];
}

// A run of kRun outputs of one sequence: first and last are the sequence's tokens.
struct OutputRun {
  int64_t first, last, begin;
  __device__ OutputRun(const View& a, int64_t row) {
    const int64_t s = sequence_of_row(a.cu, a.n_seqs, kRun, row);
    first = a.cu[s];
    last = a.cu[s + 1];
    begin = first + (row - (first / kRun + s)) * kRun;
  }
};

// kBack: the same the other way, dx[t] = sum over j of K[j] dy[t + j].
template <bool kBack, class T>
__global__ void outputs_kernel(const __grid_constant__ View a, Rows<const T> in, Rows<T> out) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const OutputRun run(a, blockIdx.x);
  if (e >= a.d_inner || run.begin >= run.last) return;
  const auto input = [&](int64_t t) {
    return t >= run.first && t < run.last ? static_cast<float>(in(t, e)) : 0.0f;
  };
  float sum[kRun] = {};
  const int64_t reach = kBack ? run.last - run.begin : run.begin + kRun - run.first;
  const int64_t lags = reach < a.filter_len ? reach : a.filter_len;
  // What outputs read at lags j to j + kRun: output i with lag j + k place i + k, or i - k from the
  // end of the first run. It moves on by a run.
  float v[kWindow];
#pragma unroll
  for (int k = 0; k < kRun - 1; ++k) {
    v[kBack ? kRun + k : k] = input(kBack ? run.begin + k : run.begin + 1 + k);
  }
  for (int64_t j = 0; j < lags; j += kRun) {
    float weight[kRun];
    const int64_t next = kBack ? run.begin + j + kRun - 1 : run.begin - j - (kRun - 1);
#pragma unroll
    for (int i = 0; i < kRun - 1; ++i) {
      const int k = kBack ? i : kRun - 2 - i;
      if (kBack) v[k] = v[k + kRun];
      else v[k + kRun] = v[k];
    }
#pragma unroll
    for (int k = 0; k < kRun; ++k) v[kBack ? kRun - 1 + k : k] = input(next + k);
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      weight[k] = j + k < a.filter_len ? a.filter[(j + k) * a.d_inner + e] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        sum[i] = fmaf(weight[k], v[kBack ? i + k : i - k + kRun - 1], sum[i]);
      }
    }
  }
  for (int i = 0; i < kRun && run.begin + i < run.last; ++i) {
    out(run.begin + i, e) = static_cast<T>(sum[i]);
  }
}

// dK[j] += sum over t of dy[t] x[t - j], of kRun lags.
template <class T>
__global__ void filter_kernel(const __grid_constant__ View a, Rows<const T> dy, Rows<const T> x,
                              float* dK) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const int64_t lag = blockIdx.x * int64_t{kRun};
  if (e >= a.d_inner) return;
  double total[kRun] = {};
  for (int64_t s = 0; s < a.n_seqs; ++s) {
    const int64_t first = a.cu[s], last = a.cu[s + 1];
    float v[kWindow];  // x from kRun - 1 tokens before t - lag on; before the first there is none
#pragma unroll
    for (int k = 0; k < kRun - 1; ++k) v[kRun + k] = 0;
    for (int64_t t = first + lag; t < last; t += kRun) {
      float g[kRun], sum[kRun] = {};
#pragma unroll
      for (int k = 0; k < kRun - 1; ++k) v[k] = v[kRun + k];
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        v[kRun - 1 + k] = t - lag + k < last ? static_cast<float>(x(t - lag + k, e)) : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        g[k] = t + k < last ? static_cast<float>(dy(t + k, e)) : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) sum[i] = fmaf(g[k], v[k - i + kRun - 1], sum[i]);
      }
      for (int i = 0; i < kRun; ++i) total[i] += sum[i];
    }
  }
  for (int i = 0; i < kRun && lag + i < a.filter_len; ++i) {
    dK[e * a.filter_len + lag + i] += static_cast<float>(total[i]);
  }
}

template <class Args>
View view_of(Device& device, const Args& a, Tensor& filter) {
  const int64_t d_inner = a.K.dim(0), filter_len = a.K.dim(1);
  filter = device.empty(DType::f32, {filter_len, d_inner});
  launch(device, name_of(a.kOp), turn_kernel, grid_of(filter_len, divide_up(d_inner, kThreads)),
         kThreads, 0, a.K.template data<float>(), d_inner, filter_len,
         filter.template data<float>());
  return {filter.template data<float>(), a.seqs.cu_seqlens.template data<int64_t>(), a.seqs.count(),
          d_inner, filter_len};
}

dim3 outputs_grid(const Sequences& seqs, int64_t d_inner) {
  const int64_t runs = seqs.tokens == 0 ? 0 : seqs.tokens / kRun + seqs.count();
  return grid_of(runs, divide_up(d_inner, kThreads));
}

template <class T>
void forward(Device& device, const LongConvForward& a) {
  Tensor filter;
  const View view = view_of(device, a, filter);
  launch(device, name_of(a.kOp), outputs_kernel<false, T>, outputs_grid(a.seqs, view.d_inner),
         kThreads, 0, view, Rows<const T>(a.x), Rows<T>(a.y));
}

template <class T>
void backward(Device& device, const LongConvBackward& a) {
  Tensor filter;
  const View view = view_of(device, a, filter);
  launch(device, name_of(a.kOp), outputs_kernel<true, T>, outputs_grid(a.seqs, view.d_inner),
         kThreads, 0, view, Rows<const T>(a.dy), Rows<T>(a.dx));
  launch(device, name_of(a.kOp), filter_kernel<T>,
         grid_of(divide_up(view.filter_len, kRun), divide_up(view.d_inner, kThreads)), kThreads, 0,
         view, Rows<const T>(a.dy), Rows<const T>(a.x), a.dK.data<float>());
}

}  // namespace

void long_conv_forward(Device& device, const LongConvForward& a) {
  if (a.x.dtype() == DType::bf16) forward<bf16>(device, a);
  else forward<float>(device, a);
}

void long_conv_backward(Device& device, const LongConvBackward& a) {
  if (a.x.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// A thread the pairs of one token and frequency, of all heads: the angle and the scale, in double,
// are made once for them. Bound: memory, 8 bytes an element (4 in bf16); with few heads the double
// functions.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/sequences.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
struct View {
  Rows<const T> x;
  Rows<T> out;
  const double* frequencies;  // (half)
  const double* growth;       // (half), or null: zeros
  const int64_t* cu;
  const int64_t* first_positions;  // (n_seqs), or null: zeros
  int64_t n_seqs, half, width;
};

template <class T>
__global__ void rotary_kernel(const __grid_constant__ View<T> a) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, t = blockIdx.x;
  if (i >= a.half) return;
  const int64_t s = sequence_of_token(a.cu, a.n_seqs, t);
  const int64_t first = a.first_positions == nullptr ? 0 : a.first_positions[s];
  const auto position = static_cast<double>(first + t - a.cu[s]);
  double sine, cosine;
  sincos(position * a.frequencies[i], &sine, &cosine);
  const double scale = a.growth == nullptr ? 1 : exp(position * a.growth[i]);
  const float c = static_cast<float>(scale * cosine), d = static_cast<float>(scale * sine);
  for (int64_t column = i; column < a.width; column += 2 * a.half) {
    const float x = a.x(t, column), y = a.x(t, column + a.half);
    a.out(t, column) = static_cast<T>(x * c - y * d);
    a.out(t, column + a.half) = static_cast<T>(x * d + y * c);
  }
}

template <class T>
void turn(Device& device, const Rotary& a) {
  if (a.x.numel() == 0) return;
  const auto half = std::ssize(a.frequencies);
  const Tensor frequencies = device.upload(a.frequencies, {half});
  const Tensor growth = a.growth.empty() ? Tensor() : device.upload(a.growth, {half});
  const Tensor first =
      a.first_positions.empty() ? Tensor() : device.upload(a.first_positions, {a.seqs.count()});
  const View<T> args = {Rows<const T>(a.x),
                        Rows<T>(a.out),
                        frequencies.data<double>(),
                        growth ? growth.data<double>() : nullptr,
                        a.seqs.cu_seqlens.data<int64_t>(),
                        first ? first.data<int64_t>() : nullptr,
                        a.seqs.count(),
                        half,
                        a.x.dim(1)};
  launch(device, name_of(a.kOp), rotary_kernel<T>, grid_of(a.x.dim(0), divide_up(half, kThreads)),
         kThreads, 0, args);
}

}  // namespace

void rotary(Device& device, const Rotary& a) {
  if (a.x.dtype() == DType::bf16) turn<bf16>(device, a);
  else turn<float>(device, a);
}

}  // namespace elapse::cuda

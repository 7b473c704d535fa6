// SPDX-License-Identifier: Apache-2.0
// The recurrence, token by token: a lane a channel, a warp kStates of the states of 32, in
// registers; more states than a block has are walked slice by slice, which adds to y. A_bar is the
// sum of two floats, as its powers keep what it is rounded by. Bound: instructions, 12 a complex
// state and token forward, 50 backward; tokens follow each other, so that a single long sequence
// does not fill a GPU, which a convolution by Fourier transforms would.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/slots.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kStates = 4;
constexpr int kMostWarps = 16;
constexpr int kSliceStates = kMostWarps * kStates;
constexpr int kTokens = 8;  // whose sums over warps meet together; whose states stay in registers
constexpr int64_t kKeptEvery = kTokens;
constexpr int64_t kTokensOfPart = 64;

struct Complex {
  float re, im;
};
__device__ Complex fma(Complex a, Complex b, Complex c) {
  return {fmaf(a.re, b.re, fmaf(-a.im, b.im, c.re)), fmaf(a.re, b.im, fmaf(a.im, b.re, c.im))};
}
// c + conj(a) b
__device__ Complex fma_conj(Complex a, Complex b, Complex c) {
  return {fmaf(a.re, b.re, fmaf(a.im, b.im, c.re)), fmaf(a.re, b.im, fmaf(-a.im, b.re, c.im))};
}

// Of one state, in double: C with the 2 of a conjugate pair.
struct Double {
  double re, im;
};
__device__ Double times(Double a, Double b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
__device__ Double over(Double a, Double b) {
  const double squares = b.re * b.re + b.im * b.im;
  return {(a.re * b.re + a.im * b.im) / squares, (a.im * b.re - a.re * b.im) / squares};
}
__device__ Double conj(Double a) { return {a.re, -a.im}; }

template <class T>
struct View {
  Rows<const T> x;
  const float* dt;
  const float* A_real;
  const float* A_imag;  // or null: states are real
  const float* C;
  const float* D;
  const int64_t* cu;
  const int64_t* start_slots;
  const int64_t* end_slots;
  int64_t n_seqs, d_inner, n_states;
  TapView h_tap;
  int64_t first_state = 0;  // of the slice

  __host__ __device__ int64_t numbers() const { return A_imag == nullptr ? 1 : 2; }
  __host__ __device__ int64_t width() const { return d_inner * n_states * numbers(); }
  __device__ bool is_last_slice() const { return first_state + kSliceStates >= n_states; }
  __host__ __device__ int64_t tiles() const { return (d_inner + 31) / 32; }

  __device__ Double A(int64_t parameter) const {
    return {A_real[parameter], A_imag == nullptr ? 0.0f : A_imag[parameter]};
  }
  __device__ Double A_bar(int64_t parameter) const {
    const double step = dt[parameter / n_states];
    const Double a = A(parameter);
    const double size = exp(step * a.re);
    double sine, cosine;
    sincos(step * a.im, &sine, &cosine);
    return {size * cosine, size * sine};
  }
  __device__ Double B_bar(int64_t parameter) const {
    const Double bar = A_bar(parameter);
    return over({bar.re - 1, bar.im}, A(parameter));
  }
};

// One channel and kStates of its states.
template <class T>
struct Lane {
  int64_t s, channel, state, first, last;
  int warp, lane;
  bool active;
  Complex A_bar[kStates], A_rest[kStates], B_bar[kStates], C[kStates];

  __device__ explicit Lane(const View<T>& a) {
    s = blockIdx.x / a.tiles();
    warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    channel = blockIdx.x % a.tiles() * 32 + lane;
    active = channel < a.d_inner;
    state = a.first_state + int64_t{warp} * kStates;
    first = a.cu[s];
    last = a.cu[s + 1];
    for (int n = 0; n < kStates; ++n) {
      A_bar[n] = A_rest[n] = B_bar[n] = C[n] = {0, 0};
      if (!has(a, n)) continue;
      const int64_t parameter = channel * a.n_states + state + n;
      const Double bar = a.A_bar(parameter), of_x = a.B_bar(parameter);
      A_bar[n] = {static_cast<float>(bar.re), static_cast<float>(bar.im)};
      A_rest[n] = {static_cast<float>(bar.re - A_bar[n].re),
                   static_cast<float>(bar.im - A_bar[n].im)};
      B_bar[n] = {static_cast<float>(of_x.re), static_cast<float>(of_x.im)};
      if (a.A_imag == nullptr) C[n] = {a.C[parameter], 0};
      else C[n] = {2 * a.C[2 * parameter], 2 * a.C[2 * parameter + 1]};
    }
  }

  __device__ bool has(const View<T>& a, int n) const { return active && state + n < a.n_states; }
  // Of a row of width() numbers.
  __device__ int64_t place(const View<T>& a, int n) const {
    return (channel * a.n_states + state + n) * a.numbers();
  }
  __device__ Complex load(const View<T>& a, const float* row, int n) const {
    if (!has(a, n)) return {0, 0};
    return {row[place(a, n)], a.A_imag == nullptr ? 0.0f : row[place(a, n) + 1]};
  }
  __device__ void store(const View<T>& a, float* row, int n, Complex h) const {
    if (!has(a, n)) return;
    row[place(a, n)] = h.re;
    if (a.A_imag != nullptr) row[place(a, n) + 1] = h.im;
  }

  __device__ float value(const View<T>& a, int64_t t) const {
    return active ? static_cast<float>(a.x(t, channel)) : 0.0f;
  }

  template <bool kTapped>
  __device__ void step(const View<T>& a, int64_t t, Complex (&h)[kStates]) const {
    const float x = value(a, t);
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      const Complex write = {B_bar[n].re * x, B_bar[n].im * x};
      h[n] = fma(A_bar[n], h[n], fma(A_rest[n], h[n], write));
      if (kTapped && has(a, n)) h[n] = passed(a, t, n, h[n]);
    }
  }

  __device__ Complex passed(const View<T>& a, int64_t t, int n, Complex h) const {
    bool changed = false;
    const int64_t number = (state + n) * a.numbers();
    h.re = a.h_tap.through(h.re, t, channel, number, changed);
    if (a.A_imag != nullptr) h.im = a.h_tap.through(h.im, t, channel, number + 1, changed);
    return h;
  }
  __device__ Complex passed_back(const View<T>& a, int64_t t, int n, Complex dh) const {
    const int64_t number = (state + n) * a.numbers();
    dh.re = a.h_tap.back(dh.re, t, channel, number);
    if (a.A_imag != nullptr) dh.im = a.h_tap.back(dh.im, t, channel, number + 1);
    return dh;
  }
};

// Tokens [begin, begin + count) of this block's channels: out = sum over warps + D of_D, or out +
// that sum where this is not the first slice: in `sums` before the last.
template <class T>
__device__ void write_sums(const View<T>& a, const Lane<T>& lane,
                           const float (&of_warp)[kTokens][kMostWarps][32], int64_t begin,
                           int count, const Rows<const T>& of_D, const Rows<float>& sums,
                           const Rows<T>& out) {
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int i = lane.warp; i < count; i += warps) {
    if (!lane.active) continue;
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += of_warp[i][w][lane.lane];
    const int64_t t = begin + i;
    sum = a.first_state > 0
              ? sums(t, lane.channel) + sum
              : fmaf(a.D[lane.channel], static_cast<float>(of_D(t, lane.channel)), sum);
    if (a.is_last_slice()) out(t, lane.channel) = static_cast<T>(sum);
    else sums(t, lane.channel) = sum;
  }
  __syncthreads();
}

// `pool` and `starts` may be null, `kept` too: (tokens / kKeptEvery + n_seqs, width), the states
// before every kKeptEvery tokens of a sequence.
template <class T, bool kTapped>
__global__ void __launch_bounds__(32 * kMostWarps)
    forward_kernel(const __grid_constant__ View<T> a, float* pool, float* starts, Rows<float> sums,
                   Rows<T> y) {
  __shared__ float of_warp[kTokens][kMostWarps][32];
  const Lane<T> lane(a);
  const int64_t from = a.start_slots[lane.s], to = a.end_slots[lane.s];
  Complex h[kStates];
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    h[n] = from < 0 ? Complex{0, 0} : lane.load(a, pool + from * a.width(), n);
    if (starts != nullptr) lane.store(a, starts + lane.s * a.width(), n, h[n]);
  }
  for (int64_t begin = lane.first; begin < lane.last; begin += kTokens) {
    const int count =
        static_cast<int>(lane.last - begin < kTokens ? lane.last - begin : int64_t{kTokens});
    for (int i = 0; i < count; ++i) {
      lane.template step<kTapped>(a, begin + i, h);
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kStates; ++n) {
        sum = fmaf(lane.C[n].re, h[n].re, fmaf(-lane.C[n].im, h[n].im, sum));
      }
      of_warp[i][lane.warp][lane.lane] = sum;
    }
    write_sums(a, lane, of_warp, begin, count, a.x, sums, y);
  }
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    if (to >= 0) lane.store(a, pool + to * a.width(), n, h[n]);
  }
}

// The states before every kKeptEvery tokens.
template <class T, bool kTapped>
__global__ void __launch_bounds__(32 * kMostWarps)
    keep_kernel(const __grid_constant__ View<T> a, const float* starts, float* kept) {
  const Lane<T> lane(a);
  Complex h[kStates];
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    h[n] = starts == nullptr ? Complex{0, 0} : lane.load(a, starts + lane.s * a.width(), n);
  }
  for (int64_t t = lane.first; t < lane.last; ++t) {
    const int64_t into = t - lane.first;
    if (into % kKeptEvery == 0) {
      float* row = kept + (lane.first / kKeptEvery + lane.s + into / kKeptEvery) * a.width();
#pragma unroll
      for (int n = 0; n < kStates; ++n) lane.store(a, row, n, h[n]);
    }
    lane.template step<kTapped>(a, t, h);
  }
}

template <class T>
struct Backward {
  View<T> in;
  Rows<const T> dy;
  const float* kept;
  const float* dend;  // (n_seqs, width), or null
  float* dstart;      // likewise
  // (n_seqs, 6, d_inner n_states): of A_bar, B_bar and C, real and imaginary parts
  float* of_sequence;
  Rows<float> dx_sums;  // over slices
  Rows<T> dx;
};

template <class T, bool kTapped>
__global__ void __launch_bounds__(32 * kMostWarps)
    backward_kernel(const __grid_constant__ Backward<T> b) {
  __shared__ float of_warp[kTokens][kMostWarps][32];
  const View<T>& a = b.in;
  const Lane<T> lane(a);
  Complex dh[kStates];
  double sums[kStates][6] = {};
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    dh[n] = b.dend == nullptr ? Complex{0, 0} : lane.load(a, b.dend + lane.s * a.width(), n);
  }
  const int64_t len = lane.last - lane.first;
  for (int64_t run = (len + kTokens - 1) / kTokens - 1; run >= 0; --run) {
    const int64_t begin = lane.first + run * kTokens;
    const int count =
        static_cast<int>(lane.last - begin < kTokens ? lane.last - begin : int64_t{kTokens});
    const float* row = b.kept + (lane.first / kKeptEvery + lane.s + run) * a.width();
    Complex h[kTokens + 1][kStates];  // before each token, and after the last
#pragma unroll
    for (int n = 0; n < kStates; ++n) h[0][n] = lane.load(a, row, n);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int n = 0; n < kStates; ++n) h[i + 1][n] = h[i][n];
      if (i < count) lane.template step<kTapped>(a, begin + i, h[i + 1]);
    }
    Complex dA[kStates] = {}, dB[kStates] = {}, dC[kStates] = {};
#pragma unroll
    for (int i = kTokens - 1; i >= 0; --i) {
      if (i >= count) continue;
      const int64_t t = begin + i;
      const float dy = lane.active ? static_cast<float>(b.dy(t, lane.channel)) : 0.0f,
                  x = lane.value(a, t);
      float dx = 0;
#pragma unroll
      for (int n = 0; n < kStates; ++n) {
        const Complex after = h[i + 1][n];
        dC[n] = {fmaf(dy, after.re, dC[n].re), fmaf(-dy, after.im, dC[n].im)};
        dh[n] = {fmaf(dy, lane.C[n].re, dh[n].re), fmaf(-dy, lane.C[n].im, dh[n].im)};
        if (kTapped && lane.has(a, n)) dh[n] = lane.passed_back(a, t, n, dh[n]);
        dA[n] = fma_conj(h[i][n], dh[n], dA[n]);
        dB[n] = {fmaf(dh[n].re, x, dB[n].re), fmaf(dh[n].im, x, dB[n].im)};
        dx = fmaf(lane.B_bar[n].re, dh[n].re, fmaf(lane.B_bar[n].im, dh[n].im, dx));
        dh[n] = fma_conj(lane.A_bar[n], dh[n], fma_conj(lane.A_rest[n], dh[n], {0, 0}));
      }
      of_warp[i][lane.warp][lane.lane] = dx;
    }
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      sums[n][0] += dA[n].re, sums[n][1] += dA[n].im, sums[n][2] += dB[n].re;
      sums[n][3] += dB[n].im, sums[n][4] += dC[n].re, sums[n][5] += dC[n].im;
    }
    write_sums(a, lane, of_warp, begin, count, b.dy, b.dx_sums, b.dx);
  }
  const int64_t parameters = a.d_inner * a.n_states;
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    if (b.dstart != nullptr) lane.store(a, b.dstart + lane.s * a.width(), n, dh[n]);
    if (!lane.has(a, n)) continue;
    for (int k = 0; k < 6; ++k) {
      b.of_sequence[(lane.s * 6 + k) * parameters + lane.channel * a.n_states + lane.state + n] =
          static_cast<float>(sums[n][k]);
    }
  }
}

struct Gradients {
  const float* sums;  // (6, d_inner n_states)
  float* ddt;         // (d_inner, n_states)
  float* dA_real;
  float* dA_imag;
  float* dC;
};

// Of one state, from the gradients of A_bar, B_bar and C.
template <class T>
__global__ void parameters_kernel(const __grid_constant__ View<T> a, Gradients to) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t parameters = a.d_inner * a.n_states;
  if (i >= parameters) return;
  const auto sum = [&](int k) { return double(to.sums[k * parameters + i]); };
  const Double dA_bar = {sum(0), sum(1)}, dB_bar = {sum(2), sum(3)};
  const Double A = a.A(i), A_bar = a.A_bar(i), B_bar = a.B_bar(i);
  const double dt = a.dt[i / a.n_states];
  const Double dexponent = times(conj(A_bar), dA_bar);
  const Double slope = over({dt * A_bar.re - B_bar.re, dt * A_bar.im - B_bar.im}, A);
  const Double through_B = times(conj(slope), dB_bar);
  to.ddt[i] = static_cast<float>(times(conj(A), dexponent).re + times(conj(A_bar), dB_bar).re);
  to.dA_real[i] += static_cast<float>(dt * dexponent.re + through_B.re);
  if (a.A_imag == nullptr) {
    to.dC[i] += static_cast<float>(sum(4));
    return;
  }
  to.dA_imag[i] += static_cast<float>(dt * dexponent.im + through_B.im);
  to.dC[2 * i] += static_cast<float>(2 * sum(4));
  to.dC[2 * i + 1] += static_cast<float>(2 * sum(5));
}

// ddt's shares summed over a channel's states, and added.
__global__ void dt_kernel(const float* shares, int64_t d_inner, int64_t n_states, float* ddt) {
  const int64_t e = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (e >= d_inner) return;
  double sum = 0;
  for (int64_t n = 0; n < n_states; ++n) sum += shares[e * n_states + n];
  ddt[e] += static_cast<float>(sum);
}

// Sums of dy x over kTokensOfPart tokens.
template <class T>
__global__ void skip_parts_kernel(Rows<const T> dy, Rows<const T> x, int64_t tokens,
                                  int64_t d_inner, float* partial) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (e >= d_inner) return;
  const int64_t begin = blockIdx.x * kTokensOfPart;
  const int64_t end = begin + kTokensOfPart < tokens ? begin + kTokensOfPart : tokens;
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    sum = fmaf(static_cast<float>(dy(t, e)), static_cast<float>(x(t, e)), sum);
  }
  partial[blockIdx.x * d_inner + e] = sum;
}

template <class T>
View<T> view_of(const DiagonalSsmInputs& in, const Tap& h, TapViews& views) {
  return {Rows<const T>(in.x),
          in.dt.data<float>(),
          in.A_real.data<float>(),
          in.is_complex() ? in.A_imag.data<float>() : nullptr,
          in.C.data<float>(),
          in.D.data<float>(),
          in.seqs.cu_seqlens.data<int64_t>(),
          in.seqs.start_slots.data<int64_t>(),
          in.seqs.end_slots.data<int64_t>(),
          in.seqs.count(),
          in.d_inner(),
          in.n_states(),
          views.view(h, in.d_inner(), in.d_state())};
}

// Calls run(threads) with each slice of the states in turn.
template <class T, class Run>
void for_each_slice(View<T>& view, Run&& run) {
  for (view.first_state = 0; view.first_state < view.n_states; view.first_state += kSliceStates) {
    const int64_t states = std::min<int64_t>(kSliceStates, view.n_states - view.first_state);
    run(static_cast<int>(32 * divide_up(states, kStates)));
  }
}

// Rows (tokens, d_inner) in which slices add up: the result's own where it is float32, else those
// of `memory` where there are several.
template <class T>
Rows<float> sums_of_slices(Device& device, const View<T>& view, const Tensor& result,
                           Tensor& memory) {
  if (result.dtype() == DType::f32) return Rows<float>(result);
  if (view.n_states > kSliceStates) memory = device.empty(DType::f32, result.shape());
  return Rows<float>(memory);
}

template <class T>
void forward(Device& device, const DiagonalSsmForward& a) {
  TapViews views(device);
  View<T> view = view_of<T>(a.in, a.h, views);
  Tensor memory;
  const Rows<float> sums = sums_of_slices(device, view, a.y, memory);
  const bool tapped = a.h.is_active_forward();
  for_each_slice(view, [&](int threads) {
    launch(device, name_of(a.kOp), tapped ? forward_kernel<T, true> : forward_kernel<T, false>,
           grid_of(view.n_seqs * view.tiles()), threads, 0, view,
           a.pool ? a.pool.data<float>() : nullptr, a.starts ? a.starts.data<float>() : nullptr,
           sums, Rows<T>(a.y));
  });
}

template <class T>
void backward(Device& device, const DiagonalSsmBackward& a) {
  TapViews views(device);
  const View<T> view = view_of<T>(a.in, a.h, views);
  const int64_t tokens = a.in.seqs.tokens, parameters = view.d_inner * view.n_states;
  const int64_t parts = divide_up(tokens, kTokensOfPart);
  const Tensor kept =
      device.empty(DType::f32, Shape{tokens / kKeptEvery + view.n_seqs, view.width()});
  const Tensor of_sequence = device.empty(DType::f32, Shape{view.n_seqs, 6 * parameters});
  const Tensor sums = device.zeros(DType::f32, Shape{6, parameters});
  const Tensor shares = device.empty(DType::f32, Shape{parameters});
  const Tensor skips = device.empty(DType::f32, Shape{parts, view.d_inner});
  Tensor dend, dstart, memory;
  if (a.dpool) {
    dend = take_end_gradients(device, a.dpool, a.in.seqs);
    dstart = device.empty(DType::f32, dend.shape());
  }
  Backward<T> args = {view,
                      Rows<const T>(a.dy),
                      kept.data<float>(),
                      dend ? dend.data<float>() : nullptr,
                      dstart ? dstart.data<float>() : nullptr,
                      of_sequence.data<float>(),
                      sums_of_slices(device, view, a.dx, memory),
                      Rows<T>(a.dx)};
  const bool tapped = a.h.is_active_backward();
  for_each_slice(args.in, [&](int threads) {
    const dim3 grid = grid_of(view.n_seqs * view.tiles());
    launch(device, name_of(a.kOp), tapped ? keep_kernel<T, true> : keep_kernel<T, false>, grid,
           threads, 0, args.in, a.starts ? a.starts.data<float>() : nullptr, kept.data<float>());
    launch(device, name_of(a.kOp), tapped ? backward_kernel<T, true> : backward_kernel<T, false>,
           grid, threads, 0, args);
  });
  add_parts(device, of_sequence.data<float>(), view.n_seqs, 6 * parameters, sums.data<float>());
  launch(device, name_of(a.kOp), parameters_kernel<T>, grid_of(divide_up(parameters, kThreads)),
         kThreads, 0, view,
         Gradients{sums.data<float>(), shares.data<float>(), a.dA_real.data<float>(),
                   a.dA_imag ? a.dA_imag.data<float>() : nullptr, a.dC.data<float>()});
  launch(device, name_of(a.kOp), dt_kernel, grid_of(divide_up(view.d_inner, kThreads)), kThreads, 0,
         shares.data<float>(), view.d_inner, view.n_states, a.ddt.data<float>());
  launch(device, name_of(a.kOp), skip_parts_kernel<T>,
         grid_of(parts, divide_up(view.d_inner, kThreads)), kThreads, 0, Rows<const T>(a.dy),
         Rows<const T>(a.in.x), tokens, view.d_inner, skips.data<float>());
  add_parts(device, skips.data<float>(), parts, view.d_inner, a.dD.data<float>());
  if (a.dpool) give_start_gradients(device, dstart, a.in.seqs, a.dpool);
}

}  // namespace

void diagonal_ssm_forward(Device& device, const DiagonalSsmForward& a) {
  if (a.in.x.dtype() == DType::bf16) forward<bf16>(device, a);
  else forward<float>(device, a);
}

void diagonal_ssm_backward(Device& device, const DiagonalSsmBackward& a) {
  if (a.in.x.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda

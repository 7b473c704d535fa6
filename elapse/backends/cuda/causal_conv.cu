// SPDX-License-Identifier: Apache-2.0
// A thread two channels, over a span of tokens, with the last inputs in registers. Bound: memory,
// 8 bytes an element forward and 12 backward, half of that in bf16; neighbouring spans meet in
// three tokens, which come from the L2 cache. That is for four taps of a filter, as published
// models have, and where nobody looks inside: else a thread goes over one channel and reads the
// d_conv inputs of a token anew, 20 bytes backward (dconv is written and read between its two
// passes).
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/slots.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kSpan = 32;          // tokens of a sequence that a thread walks
constexpr int64_t kGradientSpan = 64;  // the same, backward with the window in registers
constexpr int kWindow = 4;             // inputs of a token, where they are in registers
constexpr int kAhead = 4;              // tokens that a thread reads before it uses them

template <class T>
struct Conv {
  Rows<const T> x;
  const float* weight;  // (d_inner, d_conv)
  const float* bias;    // or null
  const float* start;   // (n_seqs, d_conv - 1, d_inner), or null: zeros
  const int64_t* cu;
  const int64_t* start_slots;
  const int64_t* end_slots;
  int64_t n_seqs, d_inner, d_conv;
  bool silu;
  TapView conv_tap;
  const TapView* term_taps;  // d_conv of them, or null
};

// A span of one sequence.
struct Span {
  int64_t s, first, last;  // of the sequence
  int64_t begin, end;      // of the span

  template <class T>
  __device__ Span(const Conv<T>& a, int64_t row, int64_t length = kSpan) {
    s = sequence_of_row(a.cu, a.n_seqs, length, row);
    first = a.cu[s];
    last = a.cu[s + 1];
    begin = first + (row - (first / length + s)) * length;
    end = begin + length < last ? begin + length : last;
  }
};

int64_t span_rows(const Sequences& seqs, int64_t length = kSpan) {
  return seqs.count() == 0 ? 0 : seqs.tokens / length + seqs.count();
}

// x of the sequence's token t, which may stand before its first.
template <class T>
__device__ float input_at(const Conv<T>& a, const Span& span, int64_t t, int64_t e) {
  if (t >= span.first) return static_cast<float>(a.x(t, e));
  if (a.start == nullptr) return 0.0f;
  const int64_t before = t - span.first + a.d_conv - 1;
  return a.start[(span.s * (a.d_conv - 1) + before) * a.d_inner + e];
}

template <class T>
__device__ float conv_at(const Conv<T>& a, const Span& span, int64_t t, int64_t e) {
  float sum = a.bias == nullptr ? 0.0f : a.bias[e];
  for (int64_t k = 0; k < a.d_conv; ++k) {
    const float weight = a.weight[e * a.d_conv + k];
    const float x = input_at(a, span, t - (a.d_conv - 1) + k, e);
    bool changed = false;
    const float term =
        a.term_taps == nullptr ? 0.0f : a.term_taps[k].through(weight * x, t, e, 0, changed);
    sum = changed ? sum + term : fmaf(weight, x, sum);
  }
  return sum;
}

template <class T>
__global__ void forward_kernel(const __grid_constant__ Conv<T> a, Rows<T> y) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const Span span(a, blockIdx.x);
  if (e >= a.d_inner) return;
  for (int64_t t = span.begin; t < span.end; ++t) {
    bool changed = false;
    const float conv = a.conv_tap.through(conv_at(a, span, t, e), t, e, 0, changed);
    y(t, e) = static_cast<T>(a.silu ? silu<T>(conv) : conv);
  }
}

// The filters of two channels, and the last inputs of each.
struct Window {
  float2 weight[kWindow], bias, x[kWindow];

  template <class T>
  __device__ Window(const Conv<T>& a, int64_t e) {
    for (int k = 0; k < kWindow; ++k) {
      weight[k] = {a.weight[e * kWindow + k], a.weight[(e + 1) * kWindow + k]};
    }
    bias = a.bias == nullptr ? float2{0, 0} : float2{a.bias[e], a.bias[e + 1]};
  }
  template <class T>
  __device__ Window(const Conv<T>& a, const Span& span, int64_t e) : Window(a, e) {
    for (int k = 1; k < kWindow; ++k) {
      const int64_t t = span.begin - kWindow + k;
      const bool is_there = t < span.last;  // a span may be empty
      x[k] = is_there ? float2{input_at(a, span, t, e), input_at(a, span, t, e + 1)} : float2{0, 0};
    }
  }

  __device__ void push(float2 next) {
    for (int k = 1; k < kWindow; ++k) x[k - 1] = x[k];
    x[kWindow - 1] = next;
  }
  __device__ float2 conv() const {
    float2 sum = bias;
    for (int k = 0; k < kWindow; ++k) {
      sum = {fmaf(weight[k].x, x[k].x, sum.x), fmaf(weight[k].y, x[k].y, sum.y)};
    }
    return sum;
  }
};

// What a thread reads of a few tokens before it uses it.
template <class T>
struct Ahead {
  Pair<T> of[kAhead];

  // Tokens from t on, of `tokens`; zeros after those. `kAll` are there.
  template <bool kAll = false>
  __device__ void read(const T* first, int stride, int t, int tokens) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      of[i] = kAll || t + i < tokens ? read_pair(first + (t + i) * stride) : Pair<T>{};
    }
  }
};

template <class T>
__global__ void window_forward_kernel(const __grid_constant__ Conv<T> a, Rows<T> y) {
  const int64_t e = 2 * (blockIdx.y * int64_t{kThreads} + threadIdx.x);
  const Span span(a, blockIdx.x);
  if (e >= a.d_inner || span.begin >= span.end) return;
  Window window(a, span, e);
  const int tokens = static_cast<int>(span.end - span.begin);
  const int x_stride = static_cast<int>(a.x.stride), y_stride = static_cast<int>(y.stride);
  const T* x = a.x.row(span.begin) + e;
  T* out = y.row(span.begin) + e;
  for (int t = 0; t < tokens; t += kAhead) {
    Ahead<T> ahead;
    ahead.read(x, x_stride, t, tokens);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (t + i >= tokens) break;
      window.push(ahead.of[i].wide());
      float2 v = window.conv();
      if (a.silu) v = {silu<T>(v.x), silu<T>(v.y)};
      store_pair(out + (t + i) * y_stride, v);
    }
  }
}

// The windows that sequences start from, copied before any is written over.
__global__ void start_kernel(const float* pool, const int64_t* start_slots, int64_t window,
                             float* start) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i >= window) return;
  const int64_t slot = start_slots[s];
  start[s * window + i] = slot < 0 ? 0.0f : pool[slot * window + i];
}

// The windows that they end with: each the last d_conv - 1 inputs.
template <class T>
__global__ void end_kernel(const __grid_constant__ Conv<T> a, float* pool) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  const int64_t slot = a.end_slots[s];
  if (e >= a.d_inner || slot < 0) return;
  const Span span(a, a.cu[s] / kSpan + s);
  for (int64_t i = 0; i < a.d_conv - 1; ++i) {
    pool[(slot * (a.d_conv - 1) + i) * a.d_inner + e] =
        input_at(a, span, span.last - (a.d_conv - 1) + i, e);
  }
}

// One token of each sequence, with the windows that it starts from and ends with.
template <class T>
__global__ void one_token_kernel(const __grid_constant__ Conv<T> a, float* pool, Rows<T> y) {
  start_next();
  const int64_t e = 2 * (blockIdx.y * int64_t{kThreads} + threadIdx.x), s = blockIdx.x;
  if (e >= a.d_inner) return;
  const int64_t start = a.start_slots[s], end = a.end_slots[s];
  Window window(a, e);
  const auto at = [&](int64_t slot, int i) {
    return pool + (slot * (kWindow - 1) + i) * a.d_inner + e;
  };
  for (int i = 0; i < kWindow - 1; ++i) {
    window.push(start < 0 ? float2{0, 0} : load_pair(at(start, i)));
  }
  wait_for_earlier();
  window.push(load_pair(a.x.row(s) + e));
  float2 v = window.conv();
  if (a.silu) v = {silu<T>(v.x), silu<T>(v.y)};
  store_pair(y.row(s) + e, v);
  if (end < 0) return;
  for (int i = 0; i < kWindow - 1; ++i) store_pair(at(end, i), window.x[i + 1]);
}

template <class T>
struct Backward {
  Conv<T> conv;
  Rows<const T> dy;
  float* dconv;         // (tokens, d_inner), or null with the window in registers
  const float* dend;    // (n_seqs, d_conv - 1, d_inner), or null
  float* dstart;        // (n_seqs, d_conv - 1, d_inner), assigned, or null
  float* dweight_part;  // (spans, d_inner, d_conv)
  float* dbias_part;    // (spans, d_inner)
  Rows<T> dx;
};

// All gradients at once: that of token t's input is known three tokens later.
template <class T>
__global__ void window_backward_kernel(const __grid_constant__ Backward<T> a) {
  const Conv<T>& conv = a.conv;
  const int64_t e = 2 * (blockIdx.y * int64_t{kThreads} + threadIdx.x);
  const Span span(conv, blockIdx.x, kGradientSpan);
  if (e >= conv.d_inner) return;
  constexpr int kLater = kWindow - 1;
  const int tokens = span.begin < span.end ? static_cast<int>(span.end - span.begin) : 0;
  const int walked = tokens == 0 ? 0 : tokens + kLater;
  const int known = static_cast<int>(min(span.last - span.begin, int64_t{walked}));
  const int x_stride = static_cast<int>(conv.x.stride), dy_stride = static_cast<int>(a.dy.stride);
  const int dx_stride = static_cast<int>(a.dx.stride);
  const T* x = conv.x.data + span.begin * conv.x.stride + e;
  const T* dy = a.dy.data + span.begin * a.dy.stride + e;
  T* dx = a.dx.data + span.begin * a.dx.stride + e;
  Ahead<T> next_x, next_dy;
  next_x.read(x, x_stride, 0, known);
  next_dy.read(dy, dy_stride, 0, known);
  Window window(conv, span, e);
  float2 dconv[kWindow] = {}, dweight[kWindow] = {}, dbias = {0, 0};
  // `inside`: all tokens from t on are the span's, those after them are there, and kLater have
  // been.
  const auto walk = [&](int t, auto inside) {
    constexpr bool kInside = decltype(inside)::value;
    const Ahead<T> now_x = next_x, now_dy = next_dy;
    next_x.template read<kInside>(x, x_stride, t + kAhead, known);
    next_dy.template read<kInside>(dy, dy_stride, t + kAhead, known);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (!kInside && t + i >= walked) break;
      window.push(now_x.of[i].wide());
      const float2 c = window.conv();
      float2 g = now_dy.of[i].wide();
      if (conv.silu) g = {g.x * silu_slope<T>(c.x), g.y * silu_slope<T>(c.y)};
      if (!kInside && t + i >= known) g = {0, 0};
      for (int k = 1; k < kWindow; ++k) dconv[k - 1] = dconv[k];
      dconv[kWindow - 1] = g;
      if (kInside || t + i < tokens) {
        dbias = {dbias.x + g.x, dbias.y + g.y};
        for (int k = 0; k < kWindow; ++k) {
          dweight[k] = {fmaf(g.x, window.x[k].x, dweight[k].x),
                        fmaf(g.y, window.x[k].y, dweight[k].y)};
        }
      }
      if (!kInside && t + i < kLater) continue;
      float2 sum = {0, 0};
      for (int k = 0; k < kWindow; ++k) {
        const float2 later = dconv[kWindow - 1 - k];
        sum = {fmaf(later.x, window.weight[k].x, sum.x), fmaf(later.y, window.weight[k].y, sum.y)};
      }
      store_pair(dx + (t + i - kLater) * dx_stride, sum);
    }
  };
  for (int t = 0; t < walked; t += kAhead) {
    const bool inside = t >= kLater && t + kAhead <= tokens && t + 2 * kAhead <= known;
    if (inside) walk(t, std::true_type());
    else walk(t, std::false_type());
  }
  const int64_t row = blockIdx.x * conv.d_inner + e;
  store_pair(a.dbias_part + row, dbias);
  for (int k = 0; k < kWindow; ++k) {
    a.dweight_part[row * kWindow + k] = dweight[k].x;
    a.dweight_part[(row + 1) * kWindow + k] = dweight[k].y;
  }
}

template <class T>
__global__ void dconv_kernel(const __grid_constant__ Backward<T> a) {
  const Conv<T>& conv = a.conv;
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const Span span(conv, blockIdx.x);
  if (e >= conv.d_inner) return;
  float dbias = 0;
  for (int64_t t = span.begin; t < span.end; ++t) {
    bool changed = false;
    const float value = conv.conv_tap.through(conv_at(conv, span, t, e), t, e, 0, changed);
    const float slope = conv.silu ? silu_slope<T>(value) : 1.0f;
    const float dconv = conv.conv_tap.back(static_cast<float>(a.dy(t, e)) * slope, t, e, 0);
    a.dconv[t * conv.d_inner + e] = dconv;
    dbias += dconv;
  }
  a.dbias_part[blockIdx.x * conv.d_inner + e] = dbias;
  for (int64_t k = 0; k < conv.d_conv; ++k) {
    float sum = 0;
    for (int64_t t = span.begin; t < span.end; ++t) {
      const float dconv = a.dconv[t * conv.d_inner + e];
      const float dterm =
          conv.term_taps == nullptr ? dconv : conv.term_taps[k].back(dconv, t, e, 0);
      sum = fmaf(dterm, input_at(conv, span, t - (conv.d_conv - 1) + k, e), sum);
    }
    a.dweight_part[(blockIdx.x * conv.d_inner + e) * conv.d_conv + k] = sum;
  }
}

// The gradient of the input at token t, which may stand before the sequence's first.
template <class T>
__device__ float dinput_at(const Backward<T>& a, const Span& span, int64_t t, int64_t e) {
  const Conv<T>& conv = a.conv;
  const int64_t window = conv.d_conv - 1, into_end = t - (span.last - window);
  float sum = 0;
  if (a.dend != nullptr && into_end >= 0) {
    sum = a.dend[(span.s * window + into_end) * conv.d_inner + e];
  }
  for (int64_t k = 0; k < conv.d_conv; ++k) {
    const int64_t reader = t + window - k;
    if (reader < span.first || reader >= span.last) continue;
    float dterm = a.dconv[reader * conv.d_inner + e];
    if (conv.term_taps != nullptr) {
      TapView slopes = conv.term_taps[k];
      slopes.gradient = nullptr;
      dterm = slopes.back(dterm, reader, e, 0);
    }
    sum = fmaf(dterm, conv.weight[e * conv.d_conv + k], sum);
  }
  return sum;
}

template <class T>
__global__ void dx_kernel(const __grid_constant__ Backward<T> a) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const Span span(a.conv, blockIdx.x);
  if (e >= a.conv.d_inner) return;
  for (int64_t t = span.begin; t < span.end; ++t) {
    a.dx(t, e) = static_cast<T>(dinput_at(a, span, t, e));
  }
  if (a.dstart == nullptr || span.begin != span.first) return;
  const int64_t window = a.conv.d_conv - 1;
  for (int64_t i = 0; i < window; ++i) {
    a.dstart[(span.s * window + i) * a.conv.d_inner + e] =
        dinput_at(a, span, span.first - window + i, e);
  }
}

// Views of the taps of terms, where the device reads them.
Tensor upload_terms(Device& device, TapViews& views, const ConvTaps& taps, int64_t d_inner) {
  std::vector<TapView> terms;
  for (const Tap& tap : taps.terms) terms.push_back(views.view(tap, d_inner));
  if (terms.empty()) return {};
  return device.upload_bytes(terms.data(), DType::u8,
                             {static_cast<int64_t>(terms.size() * sizeof(TapView))});
}

template <class T, class Args>
Conv<T> conv_of(const Args& a, TapViews& views, const Tensor& start, const Tensor& terms) {
  return {Rows<const T>(a.x),
          a.weight.template data<float>(),
          a.bias ? a.bias.template data<float>() : nullptr,
          start ? start.data<float>() : nullptr,
          a.seqs.cu_seqlens.template data<int64_t>(),
          a.seqs.start_slots.template data<int64_t>(),
          a.seqs.end_slots.template data<int64_t>(),
          a.seqs.count(),
          a.weight.dim(0),
          a.weight.dim(1),
          a.silu,
          views.view(a.taps.conv, a.weight.dim(0)),
          terms ? static_cast<const TapView*>(terms.raw()) : nullptr};
}

// Whether a window of registers serves: see the top.
template <class T>
bool is_plain(const Conv<T>& a) {
  const TapView& tap = a.conv_tap;
  const bool seen = tap.watch != nullptr || tap.gradient != nullptr || tap.n_edits > 0;
  return a.d_conv == kWindow && !seen && a.term_taps == nullptr && a.d_inner % 2 == 0 &&
         a.x.has_pairs();
}

// Decoding: a pool, and one token of each sequence.
template <class T>
bool is_step(const CausalConvForward& a, const Conv<T>& conv, const Rows<T>& y) {
  return a.pool && !a.saved_start && a.seqs.max_len == 1 && a.seqs.tokens == a.seqs.count() &&
         is_plain(conv) && y.has_pairs() &&
         reinterpret_cast<uintptr_t>(a.pool.raw()) % sizeof(float2) == 0;
}

template <class T>
void backward_spans(Device& device, const CausalConvBackward& a, Backward<T>& b) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  const bool plain = is_plain(b.conv) && b.dy.has_pairs() && b.dx.has_pairs() && !a.dpool;
  const int64_t spans = span_rows(a.seqs, plain ? kGradientSpan : kSpan);
  const Tensor parts = device.empty(DType::f32, {spans, d_inner, d_conv + 1});
  b.dweight_part = parts.data<float>();
  b.dbias_part = b.dweight_part + spans * d_inner * d_conv;
  if (plain) {
    launch(device, name_of(a.kOp), window_backward_kernel<T>,
           grid_of(spans, divide_up(d_inner / 2, kThreads)), kThreads, 0, b);
  } else {
    const Tensor dconv = device.empty(DType::f32, {a.seqs.tokens, d_inner});
    b.dconv = dconv.data<float>();
    const dim3 grid = grid_of(spans, divide_up(d_inner, kThreads));
    launch(device, name_of(a.kOp), dconv_kernel<T>, grid, kThreads, 0, b);
    launch(device, name_of(a.kOp), dx_kernel<T>, grid, kThreads, 0, b);
  }
  add_parts(device, b.dweight_part, spans, d_inner * d_conv, a.dweight.data<float>());
  if (a.dbias) add_parts(device, b.dbias_part, spans, d_inner, a.dbias.data<float>());
}

}  // namespace

template <class T>
void causal_conv_forward(Device& device, const CausalConvForward& a) {
  const int64_t d_inner = a.weight.dim(0), window = (a.weight.dim(1) - 1) * d_inner;
  const int64_t n_seqs = a.seqs.count(), blocks = divide_up(d_inner, kThreads);
  TapViews views(device);
  const Rows<T> y(a.y);
  const Tensor terms = upload_terms(device, views, a.taps, d_inner);
  Conv<T> conv = conv_of<T>(a, views, a.saved_start, terms);
  if (is_step(a, conv, y)) {
    return launch_in_chain(device, name_of(a.kOp), one_token_kernel<T>,
                           {.grid = grid_of(n_seqs, divide_up(d_inner / 2, kThreads)),
                            .threads = kThreads,
                            .states = a.pool.raw()},
                           conv, a.pool.data<float>(), y);
  }
  Tensor start = a.saved_start;
  if (!start && a.pool) start = device.empty(DType::f32, {n_seqs, a.weight.dim(1) - 1, d_inner});
  if (start) {
    launch(device, name_of(a.kOp), start_kernel, grid_of(n_seqs, divide_up(window, kThreads)),
           kThreads, 0, a.pool ? a.pool.data<float>() : nullptr, a.seqs.start_slots.data<int64_t>(),
           window, start.data<float>());
    conv.start = start.data<float>();
  }
  if (is_plain(conv) && y.has_pairs()) {
    launch(device, name_of(a.kOp), window_forward_kernel<T>,
           grid_of(span_rows(a.seqs), divide_up(d_inner / 2, kThreads)), kThreads, 0, conv, y);
  } else {
    launch(device, name_of(a.kOp), forward_kernel<T>, grid_of(span_rows(a.seqs), blocks), kThreads,
           0, conv, y);
  }
  if (!a.pool) return;
  launch(device, name_of(a.kOp), end_kernel<T>, grid_of(n_seqs, blocks), kThreads, 0, conv,
         a.pool.data<float>());
}

template <class T>
void causal_conv_backward(Device& device, const CausalConvBackward& a) {
  const int64_t d_inner = a.weight.dim(0);
  TapViews views(device);
  const Tensor terms = upload_terms(device, views, a.taps, d_inner);
  Backward<T> b = {.conv = conv_of<T>(a, views, a.saved_start, terms),
                   .dy = Rows<const T>(a.dy),
                   .dx = Rows<T>(a.dx)};
  if (!a.dpool) return backward_spans(device, a, b);
  const Tensor dend = take_end_gradients(device, a.dpool, a.seqs);
  const Tensor dstart = device.empty(DType::f32, dend.shape());
  b.dend = dend.data<float>();
  b.dstart = dstart.data<float>();
  backward_spans(device, a, b);
  give_start_gradients(device, dstart, a.seqs, a.dpool);
}

template void causal_conv_forward<float>(Device&, const CausalConvForward&);
template void causal_conv_forward<bf16>(Device&, const CausalConvForward&);
template void causal_conv_backward<float>(Device&, const CausalConvBackward&);
template void causal_conv_backward<bf16>(Device&, const CausalConvBackward&);

}  // namespace elapse::cuda

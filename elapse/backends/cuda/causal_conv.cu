// SPDX-License-Identifier: Apache-2.0
// A thread a channel, over a span of tokens. Bound: memory, 8 bytes an element forward, 20 backward
// (dconv is written and read between its two passes); the d_conv inputs of a token come from the L1
// cache but for one.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/tap.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kSpan = 32;  // tokens of a sequence that a thread walks

struct Conv {
  Rows<const float> x;
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

  __device__ Span(const Conv& a, int64_t row) {
    s = sequence_of_row(a.cu, a.n_seqs, kSpan, row);
    first = a.cu[s];
    last = a.cu[s + 1];
    begin = first + (row - (first / kSpan + s)) * kSpan;
    end = begin + kSpan < last ? begin + kSpan : last;
  }
};

int64_t span_rows(const Sequences& seqs) {
  return seqs.count() == 0 ? 0 : seqs.tokens / kSpan + seqs.count();
}

// x of the sequence's token t, which may stand before its first.
__device__ float input_at(const Conv& a, const Span& span, int64_t t, int64_t e) {
  if (t >= span.first) return a.x(t, e);
  if (a.start == nullptr) return 0.0f;
  const int64_t before = t - span.first + a.d_conv - 1;
  return a.start[(span.s * (a.d_conv - 1) + before) * a.d_inner + e];
}

__device__ float conv_at(const Conv& a, const Span& span, int64_t t, int64_t e) {
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

__global__ void forward_kernel(const __grid_constant__ Conv a, Rows<float> y) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const Span span(a, blockIdx.x);
  if (e >= a.d_inner) return;
  for (int64_t t = span.begin; t < span.end; ++t) {
    bool changed = false;
    const float conv = a.conv_tap.through(conv_at(a, span, t, e), t, e, 0, changed);
    y(t, e) = a.silu ? silu(conv) : conv;
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
__global__ void end_kernel(const __grid_constant__ Conv a, float* pool) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  const int64_t slot = a.end_slots[s];
  if (e >= a.d_inner || slot < 0) return;
  const Span span(a, a.cu[s] / kSpan + s);
  for (int64_t i = 0; i < a.d_conv - 1; ++i) {
    pool[(slot * (a.d_conv - 1) + i) * a.d_inner + e] =
        input_at(a, span, span.last - (a.d_conv - 1) + i, e);
  }
}

struct Backward {
  Conv conv;
  Rows<const float> dy;
  float* dconv;         // (tokens, d_inner)
  const float* dend;    // (n_seqs, d_conv - 1, d_inner), or null
  float* dstart;        // (n_seqs, d_conv - 1, d_inner), assigned, or null
  float* dweight_part;  // (spans, d_inner, d_conv)
  float* dbias_part;    // (spans, d_inner)
  Rows<float> dx;
};

__global__ void dconv_kernel(const __grid_constant__ Backward a) {
  const Conv& conv = a.conv;
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const Span span(conv, blockIdx.x);
  if (e >= conv.d_inner) return;
  float dbias = 0;
  for (int64_t t = span.begin; t < span.end; ++t) {
    bool changed = false;
    const float value = conv.conv_tap.through(conv_at(conv, span, t, e), t, e, 0, changed);
    const float slope = conv.silu ? silu_slope(value) : 1.0f;
    const float dconv = conv.conv_tap.back(a.dy(t, e) * slope, t, e, 0);
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
__device__ float dinput_at(const Backward& a, const Span& span, int64_t t, int64_t e) {
  const Conv& conv = a.conv;
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

__global__ void dx_kernel(const __grid_constant__ Backward a) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  const Span span(a.conv, blockIdx.x);
  if (e >= a.conv.d_inner) return;
  for (int64_t t = span.begin; t < span.end; ++t) a.dx(t, e) = dinput_at(a, span, t, e);
  if (a.dstart == nullptr || span.begin != span.first) return;
  const int64_t window = a.conv.d_conv - 1;
  for (int64_t i = 0; i < window; ++i) {
    a.dstart[(span.s * window + i) * a.conv.d_inner + e] =
        dinput_at(a, span, span.first - window + i, e);
  }
}

// Gradients of the windows that sequences end with, taken out of the pool.
__global__ void take_end_kernel(float* dpool, const int64_t* end_slots, int64_t window,
                                float* dend) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i >= window) return;
  const int64_t slot = end_slots[s];
  dend[s * window + i] = slot < 0 ? 0.0f : dpool[slot * window + i];
  if (slot >= 0) dpool[slot * window + i] = 0;
}

// And of those that they started with, added in the order of sequences.
__global__ void give_start_kernel(float* dpool, const int64_t* start_slots, int64_t n_seqs,
                                  int64_t window, const float* dstart) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= window) return;
  for (int64_t s = 0; s < n_seqs; ++s) {
    const int64_t slot = start_slots[s];
    if (slot >= 0) dpool[slot * window + i] += dstart[s * window + i];
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

template <class Args>
Conv conv_of(const Args& a, TapViews& views, const Tensor& start, const Tensor& terms) {
  return {Rows<const float>(a.x),
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

void backward_spans(Device& device, const CausalConvBackward& a, Backward& b, int64_t spans) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  const Tensor parts = device.empty(DType::f32, {spans, d_inner, d_conv + 1});
  b.dweight_part = parts.data<float>();
  b.dbias_part = b.dweight_part + spans * d_inner * d_conv;
  const dim3 grid = grid_of(spans, divide_up(d_inner, kThreads));
  launch(device, name_of(a.kOp), dconv_kernel, grid, kThreads, 0, b);
  launch(device, name_of(a.kOp), dx_kernel, grid, kThreads, 0, b);
  add_parts(device, b.dweight_part, spans, d_inner * d_conv, a.dweight.data<float>());
  if (a.dbias) add_parts(device, b.dbias_part, spans, d_inner, a.dbias.data<float>());
}

}  // namespace

void causal_conv_forward(Device& device, const CausalConvForward& a) {
  const int64_t d_inner = a.weight.dim(0), window = (a.weight.dim(1) - 1) * d_inner;
  const int64_t n_seqs = a.seqs.count(), blocks = divide_up(d_inner, kThreads);
  TapViews views(device);
  Tensor start = a.saved_start;
  if (!start && a.pool) start = device.empty(DType::f32, {n_seqs, a.weight.dim(1) - 1, d_inner});
  if (start) {
    launch(device, name_of(a.kOp), start_kernel, grid_of(n_seqs, divide_up(window, kThreads)),
           kThreads, 0, a.pool ? a.pool.data<float>() : nullptr, a.seqs.start_slots.data<int64_t>(),
           window, start.data<float>());
  }
  const Tensor terms = upload_terms(device, views, a.taps, d_inner);
  const Conv conv = conv_of(a, views, start, terms);
  launch(device, name_of(a.kOp), forward_kernel, grid_of(span_rows(a.seqs), blocks), kThreads, 0,
         conv, Rows<float>(a.y));
  if (!a.pool) return;
  launch(device, name_of(a.kOp), end_kernel, grid_of(n_seqs, blocks), kThreads, 0, conv,
         a.pool.data<float>());
}

void causal_conv_backward(Device& device, const CausalConvBackward& a) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  const int64_t n_seqs = a.seqs.count(), window = (d_conv - 1) * d_inner;
  TapViews views(device);
  const Tensor terms = upload_terms(device, views, a.taps, d_inner);
  const Tensor dconv = device.empty(DType::f32, {a.seqs.tokens, d_inner});
  Backward b = {.conv = conv_of(a, views, a.saved_start, terms),
                .dy = Rows<const float>(a.dy),
                .dconv = dconv.data<float>(),
                .dx = Rows<float>(a.dx)};
  if (!a.dpool) return backward_spans(device, a, b, span_rows(a.seqs));
  const Tensor ends = device.empty(DType::f32, {2, n_seqs, window});
  float* dend = ends.data<float>();
  launch(device, name_of(a.kOp), take_end_kernel, grid_of(n_seqs, divide_up(window, kThreads)),
         kThreads, 0, a.dpool.data<float>(), a.seqs.end_slots.data<int64_t>(), window, dend);
  b.dend = dend;
  b.dstart = dend + n_seqs * window;
  backward_spans(device, a, b, span_rows(a.seqs));
  launch(device, name_of(a.kOp), give_start_kernel, grid_of(divide_up(window, kThreads)), kThreads,
         0, a.dpool.data<float>(), a.seqs.start_slots.data<int64_t>(), n_seqs, window, b.dstart);
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
// Lanes are channels. Forward streams the rows once: of the d_conv rows a token needs, all but the
// newest are in the first-level cache. Backward takes spans of tokens: it recomputes conv and its
// gradient for the span and the d_conv - 1 tokens after it into scratch that stays in the cache,
// then filters that the other way for dx and multiplies it with x for dweight.
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/conv_rows.h"
#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/causal_conv.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// bias + sum over k of weight[k] * rows[k], for the channels from e on. weight: (taps, d_inner);
// kTaps is their number, known when compiled, or 0.
template <int kTaps, class Lanes>
HWY_INLINE V Filter(Lanes lanes, const Tensor& weight, const float* bias, const float* const* rows,
                    int64_t e) {
  const int64_t taps = kTaps > 0 ? kTaps : weight.dim(0), d_inner = weight.dim(1);
  const float* tap = weight.data<float>() + e;
  V sum = lanes.load(bias + e);
  HWY_UNROLL(4) for (int64_t k = 0; k < taps; ++k) {
    sum = hn::MulAdd(lanes.load(tap + k * d_inner), lanes.load(rows[k] + e), sum);
  }
  return sum;
}

template <class Lanes>
HWY_INLINE V LoadSource(Lanes lanes, const Tap& tap, int64_t i) {
  const float* source = tap.source.data<float>();
  return tap.source.numel() == 1 ? hn::Set(D(), *source) : lanes.load(source + i);
}

// `v` after the tap's edit; the lanes are elements from i on.
template <class Lanes>
HWY_INLINE V Edited(Lanes lanes, const Tap& tap, int64_t i, V v) {
  switch (tap.op) {
    case EditOp::none:
      break;
    case EditOp::set:
      return LoadSource(lanes, tap, i);
    case EditOp::add:
      return hn::Add(v, LoadSource(lanes, tap, i));
    case EditOp::scale:
      return hn::Mul(v, LoadSource(lanes, tap, i));
  }
  return v;
}

// The gradient of the unedited value, from that of the edited one.
template <class Lanes>
HWY_INLINE V UneditedGradient(Lanes lanes, const Tap& tap, int64_t i, V gradient) {
  if (tap.op == EditOp::set) return hn::Zero(D());
  return tap.op == EditOp::scale ? hn::Mul(gradient, LoadSource(lanes, tap, i)) : gradient;
}

template <int kTaps>
void FilterSpan(const CausalConvForward& args, const SequenceRows& x, const Tensor& weight,
                const Span& span) {
  const int64_t d_inner = weight.dim(1), window = weight.dim(0) - 1;
  const float* bias = args.bias ? args.bias.data<float>() : x.zeros();
  const std::vector<const float*> rows = x.range(span.sequence, span.begin - window, span.end);
  for (int64_t t = span.begin; t < span.end; ++t) {
    const float* const* window_rows = rows.data() + (t - span.begin);
    float* y = row(args.y, t);
    ForLanes(D(), d_inner, [&](int64_t e, auto lanes) HWY_ATTR {
      V conv = Filter<kTaps>(lanes, weight, bias, window_rows, e);
      conv = Edited(lanes, args.conv_tap, t * d_inner + e, conv);
      if (args.conv_tap.watch) {
        lanes.store(conv, args.conv_tap.watch.data<float>() + t * d_inner + e);
      }
      lanes.store(Silu(D(), conv), y + e);
    });
  }
}

void ForwardSpan(const CausalConvForward& args, const SequenceRows& x, const Tensor& weight,
                 const Span& span) {
  if (weight.dim(0) == 4) FilterSpan<4>(args, x, weight, span);
  else FilterSpan<0>(args, x, weight, span);
}

// dconv of token t, from the d_conv rows of x that end with it.
template <int kTaps>
void ConvGradient(const CausalConvBackward& args, const Tensor& weight, const float* bias,
                  const float* const* rows, int64_t t, float* dconv) {
  const int64_t d_inner = weight.dim(1);
  const float* dy = row(args.dy, t);
  ForLanes(D(), d_inner, [&](int64_t e, auto lanes) HWY_ATTR {
    const int64_t i = t * d_inner + e;
    const V conv = Edited(lanes, args.conv_tap, i, Filter<kTaps>(lanes, weight, bias, rows, e));
    const V slope = SiluDerivative(D(), conv, Sigmoid(D(), conv));
    const V gradient = hn::Mul(lanes.load(dy + e), slope);
    lanes.store(UneditedGradient(lanes, args.conv_tap, i, gradient), dconv + e);
  });
}

// sums[k] += sum over i of dconv[i] * rows[i + k], for k in [0, kTaps). sums: (kTaps, d_inner).
template <int kTaps>
void AddWeightGradients(const float* dconv, const float* const* rows, int64_t count,
                        int64_t d_inner, float* sums) {
  ForLanes(D(), d_inner, [&](int64_t e, auto lanes) HWY_ATTR {
    V sum[kTaps];
    HWY_UNROLL(4) for (int k = 0; k < kTaps; ++k) sum[k] = lanes.load(sums + k * d_inner + e);
    for (int64_t i = 0; i < count; ++i) {
      const V g = lanes.load(dconv + i * d_inner + e);
      HWY_UNROLL(4)
      for (int k = 0; k < kTaps; ++k) sum[k] = hn::MulAdd(g, lanes.load(rows[i + k] + e), sum[k]);
    }
    HWY_UNROLL(4) for (int k = 0; k < kTaps; ++k) lanes.store(sum[k], sums + k * d_inner + e);
  });
}

// Adds to `sums`, (d_conv + 1, d_inner), the gradients of the weights and, last, of the bias.
void AddGradients(const float* dconv, const float* const* rows, const Span& span, int64_t d_conv,
                  int64_t d_inner, float* sums) {
  const int64_t count = span.end - span.begin;
  int64_t k = 0;
  for (; k + 4 <= d_conv; k += 4) {
    AddWeightGradients<4>(dconv, rows + k, count, d_inner, sums + k * d_inner);
  }
  for (; k < d_conv; ++k) {
    AddWeightGradients<1>(dconv, rows + k, count, d_inner, sums + k * d_inner);
  }
  AddColumnSums(D(), dconv, count, d_inner, d_inner, sums + d_conv * d_inner);
}

// `weight` as Filter takes it, `reversed` with its taps the other way round. `scratch` holds dconv
// of kLongestSpan + d_conv - 1 tokens; dstart, (d_conv - 1, d_inner), is assigned where the span
// is its sequence's first, and may be null; sums are added to as AddGradients says.
template <int kTaps>
void UnfilterSpan(const CausalConvBackward& args, const SequenceRows& x, const Tensor& weight,
                  const Tensor& reversed, const Span& span, float* scratch, float* dstart,
                  float* sums) {
  const int64_t d_inner = weight.dim(1), d_conv = weight.dim(0), window = d_conv - 1;
  const int64_t first = x.first_token(span.sequence), end = x.end_token(span.sequence);
  const int64_t last_needed = std::min(end, span.end + window);
  const float* bias = args.bias ? args.bias.data<float>() : x.zeros();
  const std::vector<const float*> rows = x.range(span.sequence, span.begin - window, last_needed);
  for (int64_t t = span.begin; t < last_needed; ++t) {
    const int64_t i = t - span.begin;
    ConvGradient<kTaps>(args, weight, bias, rows.data() + i, t, scratch + i * d_inner);
  }

  const bool opens = span.begin == first && dstart != nullptr;
  const int64_t begin = opens ? first - window : span.begin;
  std::vector<const float*> dconv;
  for (int64_t t = begin; t < span.end + window; ++t) {
    const bool inside = t >= span.begin && t < last_needed;
    dconv.push_back(inside ? scratch + (t - span.begin) * d_inner : x.zeros());
  }
  for (int64_t t = begin; t < span.end; ++t) {
    float* dx = t < first ? dstart + (t - first + window) * d_inner : row(args.dx, t);
    const float* const* filtered = dconv.data() + (t - begin);
    ForLanes(D(), d_inner, [&](int64_t e, auto lanes) HWY_ATTR {
      lanes.store(Filter<kTaps>(lanes, reversed, x.zeros(), filtered, e), dx + e);
    });
  }
  AddGradients(scratch, rows.data(), span, d_conv, d_inner, sums);
}

void BackwardSpan(const CausalConvBackward& args, const SequenceRows& x, const Tensor& weight,
                  const Tensor& reversed, const Span& span, float* scratch, float* dstart,
                  float* sums) {
  const auto unfilter = weight.dim(0) == 4 ? UnfilterSpan<4> : UnfilterSpan<0>;
  unfilter(args, x, weight, reversed, span, scratch, dstart, sums);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {

HWY_EXPORT(ForwardSpan);
HWY_EXPORT(BackwardSpan);

enum class Taps { in_order, reversed };

// (d_inner, d_conv) as (d_conv, d_inner).
Tensor transposed(Device& device, const Tensor& weight, Taps order) {
  const int64_t d_inner = weight.dim(0), d_conv = weight.dim(1);
  const Tensor out = device.empty(DType::f32, {d_conv, d_inner});
  for (int64_t k = 0; k < d_conv; ++k) {
    const int64_t from = order == Taps::in_order ? k : d_conv - 1 - k;
    for (int64_t e = 0; e < d_inner; ++e) row(out, k)[e] = weight.data<float>()[e * d_conv + from];
  }
  return out;
}

int64_t block_tokens(int64_t d_inner) { return std::max(kLongestSpan, rows_per_block(d_inner)); }

// The window each sequence starts from: null for zeros.
std::vector<const float*> start_windows(const CausalConvForward& args, int64_t window_size) {
  std::vector<const float*> starts;
  for (const int64_t slot : args.seqs.starts) {
    const bool zeros = slot == Sequences::kNoSlot;
    starts.push_back(zeros ? nullptr : args.pool.data<float>() + slot * window_size);
  }
  return starts;
}

std::vector<const float*> start_windows(const CausalConvBackward& args, int64_t window_size) {
  std::vector<const float*> starts(static_cast<size_t>(args.seqs.count()), nullptr);
  for (size_t s = 0; args.saved_start && s < starts.size(); ++s) {
    starts[s] = args.saved_start.data<float>() + static_cast<int64_t>(s) * window_size;
  }
  return starts;
}

// Keeps the windows sequences started from and writes those they end with. A window that ends
// where it started is moved within itself, from its older rows to its newer.
void write_windows(const CausalConvForward& args, const SequenceRows& x, int64_t sequence) {
  const int64_t d_inner = args.weight.dim(0), window = args.weight.dim(1) - 1;
  const int64_t first = x.first_token(sequence), end = x.end_token(sequence);
  const int64_t slot = args.seqs.ends[static_cast<size_t>(sequence)];
  for (int64_t j = 0; args.saved_start && j < window; ++j) {
    float* saved = args.saved_start.data<float>() + (sequence * window + j) * d_inner;
    std::copy_n(x(sequence, first - window + j), d_inner, saved);
  }
  for (int64_t j = 0; slot != Sequences::kNoSlot && j < window; ++j) {
    float* to = args.pool.data<float>() + (slot * window + j) * d_inner;
    const float* from = x(sequence, end - window + j);
    if (from != to) std::copy_n(from, d_inner, to);
  }
}

// dweight and dbias += the sums of the blocks' shares, each (d_conv + 1, d_inner).
void add_shares(Device& device, const CausalConvBackward& args, const Tensor& shares) {
  const int64_t d_inner = args.weight.dim(0), d_conv = args.weight.dim(1);
  const Tensor total = device.zeros(DType::f32, {d_conv + 1, d_inner});
  add_column_sums(device, shares, total.data<float>());
  for (int64_t k = 0; k < d_conv; ++k) {
    for (int64_t e = 0; e < d_inner; ++e) {
      args.dweight.data<float>()[e * d_conv + k] += row(total, k)[e];
    }
  }
  for (int64_t e = 0; args.dbias && e < d_inner; ++e) {
    args.dbias.data<float>()[e] += row(total, d_conv)[e];
  }
}

// Moves one sequence's share of the pool's gradient from its end to its start, as Sequences says;
// what belongs to its own tokens is added to dx. `dstart`, (n_seqs, d_conv - 1, d_inner), holds the
// start's gradient so far.
void move_pool_gradient(const CausalConvBackward& args, const Tensor& dstart, int64_t sequence) {
  const int64_t d_inner = args.weight.dim(0), window = args.weight.dim(1) - 1;
  const int64_t* cu = args.seqs.cu_seqlens.data<int64_t>() + sequence;
  const int64_t from = args.seqs.ends[static_cast<size_t>(sequence)];
  const int64_t to = args.seqs.starts[static_cast<size_t>(sequence)];
  const auto add = [&](const float* gradient, float* sum) {
    for (int64_t e = 0; e < d_inner; ++e) sum[e] += gradient[e];
  };
  for (int64_t j = 0; from != Sequences::kNoSlot && j < window; ++j) {
    float* dend = row(args.dpool, from) + j * d_inner;
    const int64_t t = cu[1] - window + j;
    add(dend,
        t >= cu[0] ? row(args.dx, t) : row(dstart, sequence) + (t - cu[0] + window) * d_inner);
    std::fill_n(dend, d_inner, 0.0f);
  }
  for (int64_t j = 0; to != Sequences::kNoSlot && j < window; ++j) {
    add(row(dstart, sequence) + j * d_inner, row(args.dpool, to) + j * d_inner);
  }
}

}  // namespace

void causal_conv_forward(Device& device, const CausalConvForward& args) {
  const int64_t d_inner = args.weight.dim(0), window = args.weight.dim(1) - 1;
  const Tensor weight = transposed(device, args.weight, Taps::in_order);
  const Tensor zeros = device.zeros(DType::f32, {d_inner});
  const SequenceRows x(args.x, args.seqs, window, start_windows(args, window * d_inner), zeros);
  const auto blocks = cut_into_blocks(args.seqs, block_tokens(d_inner));
  parallel_for(static_cast<int64_t>(blocks.size()), device.threads(), [&](int64_t b) {
    for (const Span& span : blocks[static_cast<size_t>(b)]) {
      HWY_DYNAMIC_DISPATCH(ForwardSpan)(args, x, weight, span);
    }
  });
  for_each_block(device, args.seqs.count(), rows_per_block(window * d_inner),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t s = begin; s < end; ++s) write_windows(args, x, s);
                 });
}

void causal_conv_backward(Device& device, const CausalConvBackward& args) {
  const int64_t d_inner = args.weight.dim(0), d_conv = args.weight.dim(1), window = d_conv - 1;
  const Tensor weight = transposed(device, args.weight, Taps::in_order);
  const Tensor reversed = transposed(device, args.weight, Taps::reversed);
  const Tensor zeros = device.zeros(DType::f32, {d_inner});
  const SequenceRows x(args.x, args.seqs, window, start_windows(args, window * d_inner), zeros);
  const auto blocks = cut_into_blocks(args.seqs, block_tokens(d_inner));
  const auto n_blocks = static_cast<int64_t>(blocks.size());
  const Tensor scratch =
      device.empty(DType::f32, {device.threads(), (kLongestSpan + window) * d_inner});
  const Tensor shares = device.zeros(DType::f32, {n_blocks, (d_conv + 1) * d_inner});
  Tensor dstart;
  if (args.dpool) dstart = device.zeros(DType::f32, {args.seqs.count(), window, d_inner});

  parallel_for(n_blocks, device.threads(), [&](int64_t b, int worker) {
    for (const Span& span : blocks[static_cast<size_t>(b)]) {
      HWY_DYNAMIC_DISPATCH(BackwardSpan)
      (args, x, weight, reversed, span, row(scratch, worker),
       dstart ? row(dstart, span.sequence) : nullptr, row(shares, b));
    }
  });
  add_shares(device, args, shares);
  for (int64_t s = 0; args.dpool && s < args.seqs.count(); ++s) move_pool_gradient(args, dstart, s);
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

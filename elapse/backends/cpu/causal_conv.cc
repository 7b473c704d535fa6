// SPDX-License-Identifier: Apache-2.0
// Lanes are channels; rows are walked once in each direction, a tile of channels at a time. Forward
// filters four tokens at a time, which share the loads of the weights and of all but the first
// rows. Backward does the same to conv and its gradient dconv, multiplies that with x for dweight
// while both are in registers, and filters it the other way, together with that of the last
// d_conv - 1 tokens, for dx of tokens as far back; so a span's dx ends d_conv - 1 tokens late.
// By arithmetic alone a vector of 16 channels costs a token about 9 cycles forward (7 of them
// SiLU's) and 16 backward: 0.15 and 0.27 ns an element at 3.7 GHz.
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/conv_rows.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/taps.h"

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

constexpr int kTogether = 4;    // tokens
constexpr int64_t kTile = 512;  // channels

// Few enough that the weights, sums and rows kept for them stay in the first-level cache; the rest
// of a token's row comes later, so the rows needed next are asked for.
struct Channels {
  int64_t begin, end;
};

template <class Body>
HWY_INLINE void ForChannels(const Channels& channels, bool streamed, Body&& body) {
  ForLanes(D(), channels.end - channels.begin, streamed,
           [&](int64_t i, auto lanes) HWY_ATTR { body(channels.begin + i, lanes); });
}
template <class Body>
HWY_INLINE void ForChannels(const Channels& channels, Body&& body) {
  ForLanes(D(), channels.end - channels.begin,
           [&](int64_t i, auto lanes) HWY_ATTR { body(channels.begin + i, lanes); });
}

// Calls body(Channels) for all of them.
template <class Body>
HWY_INLINE void ForTiles(int64_t d_inner, Body&& body) {
  for (int64_t begin = 0; begin < d_inner; begin += kTile) {
    body(Channels{begin, std::min(d_inner, begin + kTile)});
  }
}

HWY_INLINE bool StreamsToAll(const Tensor& whole, float* const (&rows)[kTogether]) {
  return std::all_of(rows, rows + kTogether,
                     [&](const float* p) HWY_ATTR { return StreamsTo(D(), whole, p); });
}

// The taps, (d_conv, d_inner), and the bias, (d_inner), that filter x.
struct Weights {
  const float* taps;
  const float* bias;
  int64_t d_conv, d_inner;

  bool four() const { return d_conv == 4; }
  const float* tap(int64_t k) const { return taps + k * d_inner; }
};

// sum + sum over k of tap[k * tap_step] * rows[k], for the channels from e on.
template <class Lanes>
HWY_INLINE V Filter(Lanes lanes, const float* tap, int64_t tap_step, int64_t d_conv,
                    const float* const* rows, int64_t e, V sum) {
  for (int64_t k = 0; k < d_conv; ++k) {
    sum = hn::MulAdd(lanes.load(tap + k * tap_step + e), lanes.load(rows[k] + e), sum);
  }
  return sum;
}

template <class Lanes>
HWY_INLINE V FilterX(Lanes lanes, const Weights& w, const float* const* rows, int64_t e) {
  return Filter(lanes, w.taps, w.d_inner, w.d_conv, rows, e, lanes.load(w.bias + e));
}

// v[j] = the channels from e on of rows[j]
template <class Lanes, class Pointer, size_t kRows>
HWY_INLINE void LoadRows(Lanes lanes, const Pointer (&rows)[kRows], int64_t e, V (&v)[kRows]) {
  HWY_UNROLL(8) for (size_t j = 0; j < kRows; ++j) v[j] = lanes.load(rows[j] + e);
}

template <class Lanes>
HWY_INLINE void LoadTaps(Lanes lanes, const Weights& w, int64_t e, V (&taps)[4]) {
  HWY_UNROLL(4) for (int64_t k = 0; k < 4; ++k) taps[k] = lanes.load(w.tap(k) + e);
}

// The same sums as Filter's, in its order.
HWY_INLINE V FilterFour(const V (&taps)[4], const V* x, V sum) {
  HWY_UNROLL(4) for (int k = 0; k < 4; ++k) sum = hn::MulAdd(taps[k], x[k], sum);
  return sum;
}

// These channels of token t's conv, in `values`, past the tap; and its gradient back.
void ThroughTap(const Tap& tap, int64_t d_inner, int64_t t, const Channels& channels,
                float* values) {
  if (!tap.is_active_forward()) return;
  for (int64_t e = channels.begin; e < channels.end; ++e) {
    values[e] = through_tap(tap, t * d_inner + e, values[e]);
  }
}
// Only the span that a token is `own` of writes its gradient down.
void BackThroughTap(const Tap& tap, int64_t d_inner, int64_t t, bool own, const Channels& channels,
                    float* gradients) {
  if (!own && tap.gradient) {
    const Tap edits = {.edits = tap.edits};
    return BackThroughTap(edits, d_inner, t, true, channels, gradients);
  }
  if (!tap.is_active_backward()) return;
  for (int64_t e = channels.begin; e < channels.end; ++e) {
    gradients[e] = back_through_tap(tap, t * d_inner + e, gradients[e]);
  }
}

bool term_meets_forward(const ConvTaps& taps, const TapBox& box) {
  return std::any_of(taps.terms.begin(), taps.terms.end(),
                     [&](const Tap& term) { return meets_forward(term, box); });
}

// conv of token t, term by term past their taps: a term that is left as it is is added as in
// FilterX.
void FilterTerms(const std::vector<Tap>& terms, const Weights& w, const float* const* rows,
                 int64_t t, const Channels& channels, float* conv) {
  float term[kTile], passed[kTile];
  ForChannels(channels, [&](int64_t e, auto lanes)
                            HWY_ATTR { lanes.store(lanes.load(w.bias + e), conv + e); });
  for (int64_t k = 0; k < w.d_conv; ++k) {
    ForChannels(channels, [&](int64_t e, auto lanes) HWY_ATTR {
      const V product = hn::Mul(lanes.load(w.tap(k) + e), lanes.load(rows[k] + e));
      lanes.store(product, term + (e - channels.begin));
    });
    for (int64_t e = channels.begin; e < channels.end; ++e) {
      const int64_t i = e - channels.begin;
      passed[i] = through_tap(terms[static_cast<size_t>(k)], t * w.d_inner + e, term[i]);
    }
    ForChannels(channels, [&](int64_t e, auto lanes) HWY_ATTR {
      const int64_t i = e - channels.begin;
      const V sum = lanes.load(conv + e), edited = lanes.load(passed + i);
      const V unedited = hn::MulAdd(lanes.load(w.tap(k) + e), lanes.load(rows[k] + e), sum);
      const auto is_left = hn::Eq(edited, lanes.load(term + i));
      lanes.store(hn::IfThenElse(is_left, unedited, hn::Add(sum, edited)), conv + e);
    });
  }
}

// conv of token t past its taps, from the d_conv rows of x that end with it.
void FilterToken(const ConvTaps& taps, const Weights& w, const float* const* rows, int64_t t,
                 const Channels& channels, float* conv) {
  if (term_meets_forward(taps, {t, t + 1, channels.begin, channels.end})) {
    FilterTerms(taps.terms, w, rows, t, channels, conv);
  } else {
    ForChannels(channels, [&](int64_t e, auto lanes)
                              HWY_ATTR { lanes.store(FilterX(lanes, w, rows, e), conv + e); });
  }
  ThroughTap(taps.conv, w.d_inner, t, channels, conv);
}

// y of kTogether tokens from t on, where d_conv is 4 and no tap meets them.
void FilterTogether(const CausalConvForward& args, const Weights& w, const float* const* rows,
                    int64_t t, const Channels& channels) {
  const float *x_rows[kTogether + 3], *next_x[kTogether];
  float* y_rows[kTogether];
  std::copy_n(rows, kTogether + 3, x_rows);
  std::copy_n(rows + kTogether + 3, kTogether, next_x);
  for (int i = 0; i < kTogether; ++i) y_rows[i] = row(args.y, t + i);
  ForChannels(channels, StreamsToAll(args.y, y_rows), [&](int64_t e, auto lanes) HWY_ATTR {
    V taps[4], x[kTogether + 3];
    LoadTaps(lanes, w, e, taps);
    LoadRows(lanes, x_rows, e, x);
    const V bias = lanes.load(w.bias + e);
    HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) {
      PrefetchToL2(next_x[i] + e);
      const V conv = FilterFour(taps, x + i, bias);
      lanes.put(args.silu ? Silu(D(), conv) : conv, y_rows[i] + e);
    }
  });
}

bool term_meets_backward(const ConvTaps& taps, const TapBox& box) {
  return std::any_of(taps.terms.begin(), taps.terms.end(),
                     [&](const Tap& term) { return meets_backward(term, box); });
}

TapBox Box(const Span& span, const Channels& channels) {
  return {span.begin, span.end, channels.begin, channels.end};
}

void ForwardSpan(const CausalConvForward& args, const SequenceRows& x, const Tensor& taps,
                 const Span& span) {
  const Weights w{taps.data<float>(), args.bias ? args.bias.data<float>() : x.zeros(), taps.dim(0),
                  taps.dim(1)};
  const auto rows = x.range(span.sequence, span.begin - (w.d_conv - 1), span.end + kTogether);
  ForTiles(w.d_inner, [&](const Channels& channels) HWY_ATTR {
    int64_t t = span.begin;
    const TapBox box = Box(span, channels);
    if (w.four() && !meets_forward(args.taps.conv, box) && !term_meets_forward(args.taps, box)) {
      for (; t + kTogether <= span.end; t += kTogether) {
        FilterTogether(args, w, rows.data() + (t - span.begin), t, channels);
      }
    }
    for (; t < span.end; ++t) {
      float* y = row(args.y, t);
      FilterToken(args.taps, w, rows.data() + (t - span.begin), t, channels, y);
      if (!args.silu) continue;
      ForChannels(channels, [&](int64_t e, auto lanes)
                                HWY_ATTR { lanes.store(Silu(D(), lanes.load(y + e)), y + e); });
    }
  });
  hwy::FlushStream();
}

// What backward reads and writes as it comes to token `t`: the tokens up to it, the oldest first.
struct Step {
  int64_t t;
  const float* const* x;  // d_conv rows, and as many later ones as are needed next
  float* const* dconv;    // d_conv rows, the last to be assigned
  float* const* dx;       // the row of token t - (d_conv - 1), to be assigned
};

// The gradients of the last d_conv tokens' terms, which take turns: (d_conv, d_conv, d_inner).
struct TermGradients {
  float* rows;
  int64_t d_conv, d_inner;

  float* row(int64_t token, int64_t k) const {
    return rows + (token % d_conv * d_conv + k) * d_inner;
  }
};

// Token step.t's dconv.
void ConvGradient(const CausalConvBackward& args, const Weights& w, const Step& step, bool own,
                  const Channels& channels) {
  const float* dy = row(args.dy, step.t);
  float* dconv = step.dconv[w.d_conv - 1];
  if (args.silu) FilterToken(args.taps, w, step.x, step.t, channels, dconv);
  ForChannels(channels, [&](int64_t e, auto lanes) HWY_ATTR {
    V d = lanes.load(dy + e);
    if (args.silu) {
      const V conv = lanes.load(dconv + e);
      d = hn::Mul(d, SiluDerivative(D(), conv, Sigmoid(D(), conv)));
    }
    lanes.store(d, dconv + e);
  });
  BackThroughTap(args.taps.conv, w.d_inner, step.t, own, channels, dconv);
}

// Adds to `sums`, (d_conv + 1, d_inner), token step.t's share of the gradients of the weights, from
// the terms' gradients, and, last, of the bias.
void AddGradients(const Weights& w, const Step& step, const float* const* dterms, float* sums,
                  const Channels& channels) {
  const float* dconv = step.dconv[w.d_conv - 1];
  ForChannels(channels, [&](int64_t e, auto lanes) HWY_ATTR {
    float* sum = sums + e;
    for (int64_t k = 0; k < w.d_conv; ++k, sum += w.d_inner) {
      const V g = lanes.load(dterms[k] + e);
      lanes.store(hn::MulAdd(g, lanes.load(step.x[k] + e), lanes.load(sum)), sum);
    }
    lanes.store(hn::Add(lanes.load(sum), lanes.load(dconv + e)), sum);
  });
}

// dx of token t - (d_conv - 1), from the gradients of its terms: dterms[j] is that of the term
// which the j-th token from it on has of it.
void Unfilter(const Weights& w, const float* const* dterms, const Channels& channels, float* dx) {
  ForChannels(channels, [&](int64_t e, auto lanes) HWY_ATTR {
    lanes.store(Filter(lanes, w.tap(w.d_conv - 1), -w.d_inner, w.d_conv, dterms, e, hn::Zero(D())),
                dx + e);
  });
}

// All that for kTogether tokens from step.t on, where d_conv is 4 and no tap meets them: the same
// sums in the same order.
void UnfilterTogether(const CausalConvBackward& args, const Weights& w, const Step& step,
                      float* sums, const Channels& channels) {
  constexpr int kRows = kTogether + 3;
  const float *x_rows[kRows], *next_x[kTogether];
  const float *dy_rows[kTogether], *next_dy[kTogether];
  float *dconv_rows[kRows], *dx_rows[kTogether];
  std::copy_n(step.x, kRows, x_rows);
  std::copy_n(step.x + kRows, kTogether, next_x);
  std::copy_n(step.dconv, kRows, dconv_rows);
  std::copy_n(step.dx, kTogether, dx_rows);
  for (int i = 0; i < kTogether; ++i) {
    dy_rows[i] = row(args.dy, step.t + i);
    next_dy[i] = row(args.dy, std::min(step.t + kTogether + i, args.dy.dim(0) - 1));
  }
  ForChannels(channels, StreamsToAll(args.dx, dx_rows), [&](int64_t e, auto lanes) HWY_ATTR {
    V taps[4], x[kRows], dconv[kRows];
    LoadTaps(lanes, w, e, taps);
    LoadRows(lanes, x_rows, e, x);
    const V bias = lanes.load(w.bias + e), one = hn::Set(D(), 1.0f);
    HWY_UNROLL(4) for (int j = 0; j < 3; ++j) dconv[j] = lanes.load(dconv_rows[j] + e);
    HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) {
      PrefetchToL2(next_x[i] + e);
      PrefetchToL2(next_dy[i] + e);
      const V conv = FilterFour(taps, x + i, bias);
      const V slope = args.silu ? SiluDerivative(D(), conv, Sigmoid(D(), conv)) : one;
      dconv[3 + i] = hn::Mul(lanes.load(dy_rows[i] + e), slope);
    }
    const V reversed[4] = {taps[3], taps[2], taps[1], taps[0]};
    HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) {
      lanes.put(FilterFour(reversed, dconv + i, hn::Zero(D())), dx_rows[i] + e);
    }
    HWY_UNROLL(4) for (int j = kTogether; j < kRows; ++j) {
      lanes.store(dconv[j], dconv_rows[j] + e);
    }
    float* sum = sums + e;
    HWY_UNROLL(4) for (int k = 0; k < 4; ++k, sum += w.d_inner) {
      V total = lanes.load(sum);
      HWY_UNROLL(4)
      for (int i = 0; i < kTogether; ++i) total = hn::MulAdd(dconv[3 + i], x[i + k], total);
      lanes.store(total, sum);
    }
    V total = lanes.load(sum);
    HWY_UNROLL(4) for (int i = 0; i < kTogether; ++i) total = hn::Add(total, dconv[3 + i]);
    lanes.store(total, sum);
  });
}

// `scratch`: (scratch_rows, d_inner). `dstart`, (d_conv - 1, d_inner), is assigned where the
// span is its sequence's first, and may be null; sums are added to as AddGradients says.
void BackwardSpan(const CausalConvBackward& args, const SequenceRows& x, const Tensor& taps,
                  const Span& span, float* scratch, float* dstart, float* sums) {
  const Weights w{taps.data<float>(), args.bias ? args.bias.data<float>() : x.zeros(), taps.dim(0),
                  taps.dim(1)};
  const int64_t window = w.d_conv - 1;
  const int64_t first = x.first_token(span.sequence), end = x.end_token(span.sequence);
  const auto rows =
      x.range(span.sequence, span.begin - window, span.end + std::max<int64_t>(window, kTogether));
  // dconv of the last d_conv tokens, taking turns; after them a row for dx that belongs to the
  // span before, or to nobody.
  float* unwanted = scratch + w.d_conv * w.d_inner;
  std::vector<float*> dconv, dx;
  for (int64_t i = 0; i < span.end - span.begin + 2 * window; ++i) {
    dconv.push_back(scratch + i % w.d_conv * w.d_inner);
  }
  for (int64_t t = span.begin - window; t < span.begin; ++t) {
    const bool wanted = span.begin == first && dstart != nullptr;
    dx.push_back(wanted ? dstart + (t - first + window) * w.d_inner : unwanted);
  }
  for (int64_t t = span.begin; t < span.end; ++t) dx.push_back(row(args.dx, t));
  std::fill_n(scratch, window * w.d_inner, 0.0f);
  const TermGradients terms = {unwanted + w.d_inner, w.d_conv, w.d_inner};
  if (any_term_backward(args.taps)) std::fill_n(terms.rows, w.d_conv * w.d_conv * w.d_inner, 0.0f);
  std::vector<float*> of_token(static_cast<size_t>(w.d_conv)), of_x(of_token.size());

  const auto step = [&](int64_t t) {
    const int64_t i = t - span.begin;
    return Step{t, rows.data() + i, dconv.data() + i, dx.data() + i};
  };
  ForTiles(w.d_inner, [&](const Channels& channels) HWY_ATTR {
    int64_t t = span.begin;
    const TapBox box = {span.begin, std::min(end, span.end + window), channels.begin, channels.end};
    const bool by_term = term_meets_backward(args.taps, box);
    if (w.four() && !by_term && !meets_backward(args.taps.conv, Box(span, channels))) {
      for (; t + kTogether <= span.end; t += kTogether) {
        UnfilterTogether(args, w, step(t), sums, channels);
      }
    }
    for (; t < span.end + window; ++t) {
      const Step now = step(t);
      float* newest = now.dconv[window];
      const bool own = t < span.end;
      if (t < end) ConvGradient(args, w, now, own, channels);
      else std::fill(newest + channels.begin, newest + channels.end, 0.0f);
      const int64_t turn = t - span.begin + window;
      for (size_t k = 0; k < of_x.size(); ++k) {
        const auto j = static_cast<int64_t>(k);
        of_token[k] = by_term ? terms.row(turn, j) : newest;
        of_x[k] = by_term ? terms.row(turn - window + j, window - j) : now.dconv[j];
        if (!by_term) continue;
        std::copy(newest + channels.begin, newest + channels.end, of_token[k] + channels.begin);
        if (t < end) BackThroughTap(args.taps.terms[k], w.d_inner, t, own, channels, of_token[k]);
      }
      if (own) AddGradients(w, now, of_token.data(), sums, channels);
      Unfilter(w, of_x.data(), channels, *now.dx);
    }
  });
  hwy::FlushStream();
}

// `weight`, (d_inner, d_conv), as (d_conv, d_inner).
void TransposeWeight(const Tensor& weight, const Tensor& out) {
  const int64_t d_inner = weight.dim(0), d_conv = weight.dim(1);
  const float* from = weight.data<float>();
  float* to = out.data<float>();
  int64_t whole = 0;
  if (d_conv == 4) {
    const D d;
    const int64_t step = static_cast<int64_t>(hn::Lanes(d));
    for (; whole + step <= d_inner; whole += step) {
      V a, b, c, e;
      hn::LoadInterleaved4(d, from + 4 * whole, a, b, c, e);
      hn::StoreU(a, d, to + whole);
      hn::StoreU(b, d, to + d_inner + whole);
      hn::StoreU(c, d, to + 2 * d_inner + whole);
      hn::StoreU(e, d, to + 3 * d_inner + whole);
    }
  }
  // Whole cache lines of what is read.
  constexpr int64_t kLine = 16;
  for (int64_t begin = 0; begin < d_conv; begin += kLine) {
    const int64_t end = std::min(d_conv, begin + kLine);
    for (int64_t e = whole; e < d_inner; ++e) {
      for (int64_t k = begin; k < end; ++k) to[k * d_inner + e] = from[e * d_conv + k];
    }
  }
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {

HWY_EXPORT(ForwardSpan);
HWY_EXPORT(BackwardSpan);
HWY_EXPORT(TransposeWeight);

Tensor transposed(Device& device, const Tensor& weight) {
  const Tensor out = device.empty(DType::f32, {weight.dim(1), weight.dim(0)});
  HWY_DYNAMIC_DISPATCH(TransposeWeight)(weight, out);
  return out;
}

// Of dconv and dx, and of the terms' gradients where taps make them differ from it.
int64_t scratch_rows(const ConvTaps& taps, int64_t d_conv) {
  return d_conv + 1 + (any_term_backward(taps) ? d_conv * d_conv : 0);
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
  const Tensor taps = transposed(device, args.weight);
  const Tensor zeros = device.zeros(DType::f32, {d_inner});
  const SequenceRows x(args.x, args.seqs, window, start_windows(args, window * d_inner), zeros);
  const auto blocks = cut_into_blocks(args.seqs, block_tokens(d_inner));
  parallel_for(static_cast<int64_t>(blocks.size()), device.threads(), [&](int64_t b) {
    for (const Span& span : blocks[static_cast<size_t>(b)]) {
      HWY_DYNAMIC_DISPATCH(ForwardSpan)(args, x, taps, span);
    }
  });
  for_each_block(device, args.seqs.count(), rows_per_block(window * d_inner),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t s = begin; s < end; ++s) write_windows(args, x, s);
                 });
}

void causal_conv_backward(Device& device, const CausalConvBackward& args) {
  const int64_t d_inner = args.weight.dim(0), d_conv = args.weight.dim(1), window = d_conv - 1;
  const Tensor taps = transposed(device, args.weight);
  const Tensor zeros = device.zeros(DType::f32, {d_inner});
  const SequenceRows x(args.x, args.seqs, window, start_windows(args, window * d_inner), zeros);
  const auto blocks = cut_into_blocks(args.seqs, block_tokens(d_inner));
  const auto n_blocks = static_cast<int64_t>(blocks.size());
  const Tensor scratch =
      device.empty(DType::f32, {device.threads(), scratch_rows(args.taps, d_conv) * d_inner});
  const Tensor shares = device.zeros(DType::f32, {n_blocks, (d_conv + 1) * d_inner});
  Tensor dstart;
  if (args.dpool) dstart = device.zeros(DType::f32, {args.seqs.count(), window, d_inner});

  parallel_for(n_blocks, device.threads(), [&](int64_t b, int worker) {
    for (const Span& span : blocks[static_cast<size_t>(b)]) {
      HWY_DYNAMIC_DISPATCH(BackwardSpan)
      (args, x, taps, span, row(scratch, worker), dstart ? row(dstart, span.sequence) : nullptr,
       row(shares, b));
    }
  });
  add_shares(device, args, shares);
  for (int64_t s = 0; args.dpool && s < args.seqs.count(); ++s) move_pool_gradient(args, dstart, s);
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

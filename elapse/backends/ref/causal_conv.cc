// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/causal_conv.h"

#include <algorithm>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// One sequence's inputs with its start before them: padded[i] is x[i - (d_conv - 1)].
template <class T>
std::vector<T> with_start(const T* start, const Tensor& x, int64_t begin, int64_t end,
                          int64_t d_conv) {
  const int64_t d_inner = x.dim(1), before = (d_conv - 1) * d_inner;
  std::vector<T> padded(static_cast<size_t>(before + (end - begin) * d_inner), T(0));
  if (start != nullptr) std::copy_n(start, before, padded.begin());
  for (int64_t t = begin; t < end; ++t) {
    std::copy_n(Matrix<T>(x).row(t), d_inner, padded.begin() + before + (t - begin) * d_inner);
  }
  return padded;
}

// conv of token `begin` + t, whose terms pass their taps; a term left as it is is added unrounded.
template <class T, class Args>
T conv_at(const Args& a, const T* padded, int64_t begin, int64_t t, int64_t e) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  double sum = a.bias ? static_cast<double>(a.bias.template data<T>()[e]) : 0;
  for (int64_t k = 0; k < d_conv; ++k) {
    double term =
        double(a.weight.template data<T>()[e * d_conv + k]) * padded[(t + k) * d_inner + e];
    if (!a.taps.terms.empty()) {
      const T passed = TapAt<T>(a.taps.terms[static_cast<size_t>(k)])(static_cast<T>(term),
                                                                      (begin + t) * d_inner + e);
      if (passed != static_cast<T>(term)) term = passed;
    }
    sum += term;
  }
  return static_cast<T>(sum);
}

template <class T>
void causal_conv_forward(Device&, const CausalConvForward& a) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  const int64_t window = (d_conv - 1) * d_inner;
  const int64_t* cu = a.seqs.cu_seqlens.data<int64_t>();
  const Matrix<T> y(a.y);
  const TapAt<T> tap(a.taps.conv);
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    const int64_t from = a.seqs.start_slots.data<int64_t>()[s];
    const int64_t to = a.seqs.end_slots.data<int64_t>()[s];
    const T* start = from < 0 ? nullptr : a.pool.data<T>() + from * window;
    const std::vector<T> padded = with_start(start, a.x, cu[s], cu[s + 1], d_conv);
    if (a.saved_start) std::copy_n(padded.data(), window, a.saved_start.data<T>() + s * window);
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
      for (int64_t e = 0; e < d_inner; ++e) {
        const T conv = conv_at<T>(a, padded.data(), cu[s], t - cu[s], e);
        const T passed = tap(conv, t * d_inner + e);
        y(t, e) = a.silu ? silu(passed) : passed;
      }
    }
    if (to >= 0) std::copy_n(padded.end() - window, window, a.pool.data<T>() + to * window);
  }
}

// Gradient of one sequence's padded inputs, with dweight and dbias accumulated on the way. `dend`
// is the gradient of the window the sequence ended with, or null.
template <class T>
std::vector<double> sequence_backward(const CausalConvBackward& a, int64_t begin, int64_t end,
                                      const std::vector<T>& padded, const T* dend) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  const TapAt<T> tap(a.taps.conv);
  std::vector<double> dpadded(padded.size(), 0);
  const size_t tail = padded.size() - static_cast<size_t>((d_conv - 1) * d_inner);
  if (dend != nullptr) std::copy_n(dend, padded.size() - tail, dpadded.begin() + tail);
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t e = 0; e < d_inner; ++e) {
      const int64_t place = t * d_inner + e;
      const T conv = conv_at<T>(a, padded.data(), begin, t - begin, e);
      const T slope = a.silu ? silu_slope(tap(conv, place)) : T(1);
      const T dconv = tap.back(Matrix<T>(a.dy)(t, e) * slope, place);
      if (a.dbias) a.dbias.data<T>()[e] += dconv;
      for (int64_t k = 0; k < d_conv; ++k) {
        const auto i = static_cast<size_t>((t - begin + k) * d_inner + e);
        const T dterm = a.taps.terms.empty()
                            ? dconv
                            : TapAt<T>(a.taps.terms[static_cast<size_t>(k)]).back(dconv, place);
        a.dweight.data<T>()[e * d_conv + k] += dterm * padded[i];
        dpadded[i] += double(dterm) * a.weight.data<T>()[e * d_conv + k];
      }
    }
  }
  return dpadded;
}

template <class T>
void causal_conv_backward(Device&, const CausalConvBackward& a) {
  const int64_t d_inner = a.weight.dim(0), d_conv = a.weight.dim(1);
  const int64_t window = (d_conv - 1) * d_inner;
  const int64_t* cu = a.seqs.cu_seqlens.data<int64_t>();
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    const int64_t from = a.seqs.start_slots.data<int64_t>()[s];
    const int64_t to = a.seqs.end_slots.data<int64_t>()[s];
    const T* start = a.saved_start ? a.saved_start.data<T>() + s * window : nullptr;
    const std::vector<T> padded = with_start(start, a.x, cu[s], cu[s + 1], d_conv);
    T* dend = a.dpool && to >= 0 ? a.dpool.data<T>() + to * window : nullptr;
    const std::vector<double> dpadded = sequence_backward(a, cu[s], cu[s + 1], padded, dend);
    if (dend != nullptr) std::fill_n(dend, window, T(0));
    for (int64_t i = 0; a.dpool && from >= 0 && i < window; ++i) {
      a.dpool.data<T>()[from * window + i] += static_cast<T>(dpadded[static_cast<size_t>(i)]);
    }
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
      for (int64_t e = 0; e < d_inner; ++e) {
        const auto i = static_cast<size_t>(window + (t - cu[s]) * d_inner + e);
        Matrix<T>(a.dx)(t, e) = static_cast<T>(dpadded[i]);
      }
    }
  }
}

template <class T>
void causal_shift(Device&, const CausalShift& a) {
  const int64_t* cu = a.seqs.cu_seqlens.data<int64_t>();
  const Matrix<T> x(a.x), out(a.out);
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
      const int64_t from = t - a.by;
      const bool inside = from >= cu[s] && from < cu[s + 1];
      for (int64_t e = 0; e < a.x.dim(1); ++e) out(t, e) = inside ? x(from, e) : T(0);
    }
  }
}

}  // namespace

template <class T>
void add_causal_conv(KernelTable& table) {
  table.set<CausalConvForward>(causal_conv_forward<T>);
  table.set<CausalConvBackward>(causal_conv_backward<T>);
  table.set<CausalShift>(causal_shift<T>);
}
template void add_causal_conv<float>(KernelTable&);
template void add_causal_conv<double>(KernelTable&);

}  // namespace elapse::ref

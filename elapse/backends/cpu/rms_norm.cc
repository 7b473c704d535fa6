// SPDX-License-Identifier: Apache-2.0
// A row is read from memory once: the second pass over it finds it in the first-level cache, and
// asks for the row after it, so that memory is never idle. The arithmetic, two vectors of sums and
// three of products, is far below what memory costs: 16 bytes an element each way.
#include <cmath>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/taps.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/rms_norm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

float SumOfRowSquares(const float* x, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V squares) HWY_ATTR {
    const V v = lanes.load(x + i);
    return hn::MulAdd(v, v, squares);
  });
}

// sum = residual + x; returns the sum of its squares.
float AddResidual(const float* x, const float* residual, float* sum, int64_t n, bool streamed) {
  const auto add = [&](int64_t i, auto lanes, V squares) HWY_ATTR {
    const V v = hn::Add(lanes.load(residual + i), lanes.load(x + i));
    lanes.put(v, sum + i);
    return hn::MulAdd(v, v, squares);
  };
  return streamed ? SumLanes(StreamedLanes<D>{{D()}}, n, add)
                  : SumLanes(WholeLanes<D>{D()}, n, add);
}

float RootMeanSquare(float squares, int64_t n, double eps) {
  return static_cast<float>(std::sqrt(squares / static_cast<double>(n) + eps));
}

// `residual` may be null. The sum is made anew rather than read: it may have gone past the caches.
void NormalizeRow(const float* x, const float* residual, const float* weight, float scale, float* y,
                  int64_t n, bool streamed) {
  const D d;
  const V inverse = hn::Set(d, 1.0f / scale);
  ForLanes(d, n, streamed, [&](int64_t i, auto lanes) HWY_ATTR {
    V sum = lanes.load(x + i);
    PrefetchToL2(x + n + i);
    if (residual != nullptr) {
      sum = hn::Add(lanes.load(residual + i), sum);
      PrefetchToL2(residual + n + i);
    }
    lanes.put(hn::Mul(lanes.load(weight + i), hn::Mul(sum, inverse)), y + i);
  });
}

void ForwardRows(const RmsNormForward& args, int64_t begin, int64_t end) {
  const int64_t n = args.weight.numel();
  for (int64_t t = begin; t < end; ++t) {
    const float* x = row(args.x, t);
    const float* residual = args.residual ? row(args.residual, t) : nullptr;
    float* y = row(args.y, t);
    const bool streamed = StreamsTo(D(), args.y, y);
    const float squares = residual != nullptr
                              ? AddResidual(x, residual, row(args.sum, t), n,
                                            streamed && StreamsTo(D(), args.sum, row(args.sum, t)))
                              : SumOfRowSquares(x, n);
    const float scale = through_tap(args.scale_tap, t, RootMeanSquare(squares, n, args.eps));
    args.scale.data<float>()[t] = scale;
    NormalizeRow(x, residual, args.weight.data<float>(), scale, y, n, streamed);
  }
  hwy::FlushStream();
}

// sum of dy weight sum
float WeightedDot(const float* dy, const float* weight, const float* sum, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V dot) HWY_ATTR {
    const V dnormalized = hn::Mul(lanes.load(dy + i), lanes.load(weight + i));
    return hn::MulAdd(dnormalized, lanes.load(sum + i), dot);
  });
}

// The gradient through scale reaches element i as scale_share * sum[i]:
//   d scale = -(sum_i dy_i weight_i sum_i) / scale^2;  d scale / d sum_i = sum_i / (n scale)
// where the last is the scale before any edit.
float ScaleShare(const RmsNormBackward& args, int64_t t, float scale) {
  const int64_t n = args.weight.numel();
  const float* sum = row(args.sum, t);
  const float dot = WeightedDot(row(args.dy, t), args.weight.data<float>(), sum, n);
  const float dscale = -dot / (scale * scale);
  const float passed = back_through_tap(args.scale_tap, t, dscale);
  if (!args.scale_tap.is_edited()) return passed / (static_cast<float>(n) * scale);
  const float unedited = RootMeanSquare(SumOfRowSquares(sum, n), n, args.eps);
  return passed / (static_cast<float>(n) * unedited);
}

// Rows [begin, end); dweight receives their share, added to.
void BackwardRows(const RmsNormBackward& args, int64_t begin, int64_t end, float* dweight) {
  const D d;
  const int64_t n = args.weight.numel();
  const float* weight = args.weight.data<float>();
  for (int64_t t = begin; t < end; ++t) {
    const float scale = args.scale.data<float>()[t];
    const auto share = hn::Set(d, ScaleShare(args, t, scale));
    const auto inverse = hn::Set(d, 1.0f / scale);
    const float* dy = row(args.dy, t);
    const float* sum = row(args.sum, t);
    const float* dsum = args.dsum ? row(args.dsum, t) : nullptr;
    float* dsum_total = row(args.dsum_total, t);
    const bool streamed = StreamsTo(d, args.dsum_total, dsum_total);
    ForLanes(d, n, streamed, [&](int64_t i, auto lanes) HWY_ATTR {
      PrefetchToL2(dy + n + i);
      PrefetchToL2(sum + n + i);
      const auto s = lanes.load(sum + i);
      const auto scaled = hn::Mul(lanes.load(dy + i), inverse);
      lanes.store(hn::MulAdd(scaled, s, lanes.load(dweight + i)), dweight + i);
      auto total = hn::MulAdd(scaled, lanes.load(weight + i), hn::Mul(share, s));
      if (dsum != nullptr) total = hn::Add(total, lanes.load(dsum + i));
      lanes.put(total, dsum_total + i);
    });
  }
  hwy::FlushStream();
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {

HWY_EXPORT(ForwardRows);
HWY_EXPORT(BackwardRows);

void rms_norm_forward(Device& device, const RmsNormForward& args) {
  for_each_block(device, args.x.dim(0), rows_per_block(args.x.dim(1)),
                 [&](int64_t begin, int64_t end) {
                   HWY_DYNAMIC_DISPATCH(ForwardRows)(args, begin, end);
                 });
}

void rms_norm_backward(Device& device, const RmsNormBackward& args) {
  constexpr int64_t kLeastRows = 32;  // keeps the blocks' shares of dweight small beside the rows
  const int64_t tokens = args.dy.dim(0), d_model = args.dy.dim(1);
  const int64_t block_rows = std::max(kLeastRows, rows_per_block(d_model));
  const Tensor partials = device.zeros(DType::f32, {divide_up(tokens, block_rows), d_model});
  for_each_block(device, tokens, block_rows, [&](int64_t begin, int64_t end, int64_t block) {
    HWY_DYNAMIC_DISPATCH(BackwardRows)(args, begin, end, row(partials, block));
  });
  add_column_sums(device, partials, args.dweight.data<float>());
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

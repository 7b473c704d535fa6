// SPDX-License-Identifier: Apache-2.0
// As rms_norm.cc: a row is read from memory once, and the two passes after the first, one for the
// squares about the mean and one that norms, find it in the first-level cache. 16 bytes an element
// forward with a residual, and as many backward, where two sums over the row come first.
#include <cmath>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/taps.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/layer_norm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

float SumOfRow(const float* x, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V total) HWY_ATTR {
    return hn::Add(total, lanes.load(x + i));
  });
}

// sum = residual + x; returns its total.
float AddResidual(const float* x, const float* residual, float* sum, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V total) HWY_ATTR {
    const V v = hn::Add(lanes.load(residual + i), lanes.load(x + i));
    lanes.store(v, sum + i);
    return hn::Add(total, v);
  });
}

float Deviation(const float* x, float mean, int64_t n, double eps) {
  const V center = hn::Set(D(), mean);
  const float squares = SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V sum) HWY_ATTR {
    const V v = lanes.keep(hn::Sub(lanes.load(x + i), center));
    return hn::MulAdd(v, v, sum);
  });
  return static_cast<float>(std::sqrt(squares / static_cast<double>(n) + eps));
}

void ForwardRows(const LayerNormForward& args, int64_t begin, int64_t end) {
  const D d;
  const int64_t n = args.weight.numel();
  const float *weight = args.weight.data<float>(), *bias = args.bias.data<float>();
  for (int64_t t = begin; t < end; ++t) {
    const float* x = row(args.x, t);
    float total = 0;
    if (args.residual) {
      float* sum = row(args.sum, t);
      total = AddResidual(x, row(args.residual, t), sum, n);
      x = sum;
    } else {
      total = SumOfRow(x, n);
    }
    const float mean = total / static_cast<float>(n);
    const float scale = through_tap(args.scale_tap, t, Deviation(x, mean, n, args.eps));
    args.mean.data<float>()[t] = mean;
    args.scale.data<float>()[t] = scale;
    const V center = hn::Set(d, mean), inverse = hn::Set(d, 1.0f / scale);
    float* y = row(args.y, t);
    ForLanes(d, n, StreamsTo(d, args.y, y), [&](int64_t i, auto lanes) HWY_ATTR {
      const V normed = hn::Mul(hn::Sub(lanes.load(x + i), center), inverse);
      lanes.put(hn::MulAdd(lanes.load(weight + i), normed, lanes.load(bias + i)), y + i);
    });
  }
  hwy::FlushStream();
}

// sum of weight dy
float WeightedSum(const float* dy, const float* weight, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V sum) HWY_ATTR {
    return hn::MulAdd(lanes.load(dy + i), lanes.load(weight + i), sum);
  });
}

// The gradient through scale reaches element i as the result times sum[i] - mean: see rms_norm.cc.
float ScaleShare(const LayerNormBackward& args, int64_t t, float mean, float scale) {
  const int64_t n = args.weight.numel();
  const float *dy = row(args.dy, t), *sum = row(args.sum, t), *weight = args.weight.data<float>();
  const V center = hn::Set(D(), mean);
  const float dot = SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V total) HWY_ATTR {
    const V dnormed = hn::Mul(lanes.load(dy + i), lanes.load(weight + i));
    return hn::MulAdd(dnormed, hn::Sub(lanes.load(sum + i), center), total);
  });
  const float dscale = back_through_tap(args.scale_tap, t, -dot / (scale * scale));
  const float unedited = args.scale_tap.is_edited() ? Deviation(sum, mean, n, args.eps) : scale;
  return dscale / (static_cast<float>(n) * unedited);
}

// Rows [begin, end); dweight and dbias receive their shares, added to.
void BackwardRows(const LayerNormBackward& args, int64_t begin, int64_t end, float* dweight,
                  float* dbias) {
  const D d;
  const int64_t n = args.weight.numel();
  const float* weight = args.weight.data<float>();
  for (int64_t t = begin; t < end; ++t) {
    const float mean = args.mean.data<float>()[t], scale = args.scale.data<float>()[t];
    const float *dy = row(args.dy, t), *sum = row(args.sum, t);
    const float* dsum = args.dsum ? row(args.dsum, t) : nullptr;
    float* dsum_total = row(args.dsum_total, t);
    const V center = hn::Set(d, mean), inverse = hn::Set(d, 1.0f / scale);
    const V share = hn::Set(d, ScaleShare(args, t, mean, scale));
    const V common = hn::Set(d, WeightedSum(dy, weight, n) / static_cast<float>(n));
    ForLanes(d, n, StreamsTo(d, args.dsum_total, dsum_total), [&](int64_t i, auto lanes) HWY_ATTR {
      PrefetchToL2(dy + n + i);
      PrefetchToL2(sum + n + i);
      const V g = lanes.load(dy + i), centered = hn::Sub(lanes.load(sum + i), center);
      const V normed = hn::Mul(centered, inverse);
      lanes.store(hn::MulAdd(g, normed, lanes.load(dweight + i)), dweight + i);
      lanes.store(hn::Add(lanes.load(dbias + i), g), dbias + i);
      const V uncommon = hn::Sub(hn::Mul(g, lanes.load(weight + i)), common);
      V total = hn::MulAdd(uncommon, inverse, hn::Mul(share, centered));
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
namespace {
HWY_EXPORT(ForwardRows);
HWY_EXPORT(BackwardRows);
}  // namespace

void layer_norm_forward(Device& device, const LayerNormForward& args) {
  for_each_block(device, args.x.dim(0), rows_per_block(args.x.dim(1)),
                 [&](int64_t begin, int64_t end) {
                   HWY_DYNAMIC_DISPATCH(ForwardRows)(args, begin, end);
                 });
}

void layer_norm_backward(Device& device, const LayerNormBackward& args) {
  constexpr int64_t kLeastRows = 32;  // keeps the blocks' shares small beside the rows
  const int64_t tokens = args.dy.dim(0), d_model = args.dy.dim(1);
  const int64_t block_rows = std::max(kLeastRows, rows_per_block(d_model));
  const Shape shape = {divide_up(tokens, block_rows), d_model};
  const Tensor dweight = device.zeros(DType::f32, shape), dbias = device.zeros(DType::f32, shape);
  for_each_block(device, tokens, block_rows, [&](int64_t begin, int64_t end, int64_t block) {
    HWY_DYNAMIC_DISPATCH(BackwardRows)(args, begin, end, row(dweight, block), row(dbias, block));
  });
  add_column_sums(device, dweight, args.dweight.data<float>());
  add_column_sums(device, dbias, args.dbias.data<float>());
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

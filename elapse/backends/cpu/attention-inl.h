// SPDX-License-Identifier: Apache-2.0
// Blocks of queries before blocks of keys: included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_ATTENTION_INL_H_
#undef ELAPSE_BACKENDS_CPU_ATTENTION_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_ATTENTION_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "elapse/backends/cpu/attention_plan.h"
#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/product.h"
#include "elapse/backends/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// What scores are compared with before there is one.
inline constexpr float kNoScore = std::numeric_limits<float>::lowest();

HWY_INLINE void ScaleBy(float factor, int64_t n, float* x) {
  const D d;
  ForLanes(d, n, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(hn::Mul(hn::Set(d, factor), lanes.load(x + i)), x + i);
  });
}

HWY_INLINE float LargestOf(const float* x, int64_t n, float least) {
  const D d;
  const auto join = [](V a, V b) HWY_ATTR { return hn::Max(a, b); };
  return hn::GetLane(hn::MaxOfLanes(d, FoldLanes(
                                           WholeLanes<D>{d}, n, hn::Set(d, least),
                                           [&](int64_t i, auto lanes, V most) HWY_ATTR {
                                             return hn::Max(most, lanes.load_or(most, x + i));
                                           },
                                           join)));
}

// x = exp(x - shift); returns the sum.
HWY_INLINE float ExpOfDifferences(float* x, int64_t n, float shift) {
  const D d;
  return SumLanes(WholeLanes<D>{d}, n, [&](int64_t i, auto lanes, V sum) HWY_ATTR {
    const V weight = Exp(d, hn::Sub(lanes.load(x + i), hn::Set(d, shift)));
    lanes.store(weight, x + i);
    return hn::Add(sum, lanes.keep(weight));
  });
}

HWY_INLINE float ExpOf(float x) {
  const D d;
  return hn::GetLane(Exp(d, hn::Set(d, x)));
}

// The keys [begin, end) of a block of `count` from row `first` on that query row `at` sees.
HWY_INLINE KeyRange SeenOf(int64_t at, int64_t window, int64_t first, int64_t count) {
  const int64_t lowest = window == 0 ? 0 : at - window + 1;
  const int64_t begin = std::clamp<int64_t>(lowest - first, 0, count);
  return {begin, std::clamp<int64_t>(at + 1 - first, begin, count)};
}

// The block's queries times the scale; zeros in rows without one.
HWY_INLINE void LoadRows(const Tensor& from, const AttentionPlan& plan, const AttentionBlock& block,
                         int64_t head_dim, int64_t rows, float scale, float* to) {
  const AttentionStream& s = plan.stream(block.stream);
  for (int64_t i = 0; i < block.count; ++i) {
    const float* source =
        row(from, plan.token(s, s.past + block.begin + i)) + block.head * head_dim;
    std::copy_n(source, head_dim, to + i * head_dim);
  }
  if (scale != 1) ScaleBy(scale, block.count * head_dim, to);
  std::fill_n(to + block.count * head_dim, (rows - block.count) * head_dim, 0.0f);
}

// scores (rows, kKeys) = queries (rows, head_dim) keys^T, of `count` keys
inline void MultiplyWithKeys(const float* queries, const float* keys, int64_t rows, int64_t count,
                             int64_t head_dim, float* scores) {
  multiply({.m = rows,
            .n = count,
            .k = head_dim,
            .a = {head_dim, 1},
            .b = {1, head_dim},
            .c_row = kKeys,
            .accumulates = false},
           queries, keys, scores);
}

// out (rows, head_dim) += weights (rows, kKeys) values, of `count` keys
inline void AddWeighted(const float* weights, const float* values, int64_t rows, int64_t count,
                        int64_t head_dim, float* out) {
  multiply({.m = rows,
            .n = head_dim,
            .k = count,
            .a = {kKeys, 1},
            .b = {head_dim, 1},
            .c_row = head_dim,
            .accumulates = true},
           weights, values, out);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

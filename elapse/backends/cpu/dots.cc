// SPDX-License-Identifier: Apache-2.0
// Decoding multiplies one row, or a few, with each weight matrix: bound by the reading of the
// weights, which are kept in vectors against all of the few rows.
#include "elapse/backends/cpu/dots.h"

#include "elapse/backends/cpu/blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/dots.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// The kFew x kMany results from (i, j) on.
template <int kFew, int kMany>
HWY_INLINE void Tile(const DotsOfFewRows& args, int64_t i, int64_t j) {
  V sums[kFew][kMany];
  HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
    HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) sums[r][c] = hn::Zero(D());
  }
  const float* few = row(args.few, i);
  const float* many = row(args.many, j);
  const int64_t few_stride = args.few.stride(0), many_stride = args.many.stride(0);
  ForLanes(D(), args.few.dim(1), [&](int64_t k, auto lanes) HWY_ATTR {
    V a[kFew];
    HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) a[r] = lanes.load(few + r * few_stride + k);
    HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) {
      const V b = lanes.load(many + c * many_stride + k);
      HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) sums[r][c] = hn::MulAdd(a[r], b, sums[r][c]);
    }
  });
  HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
    float results[kMany];
    SumsOf(D(), sums[r], results);
    float* out = args.out + (i + r) * args.out_few + j * args.out_many;
    HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) {
      const float bias = args.bias != nullptr ? args.bias[j + c] : 0.0f;
      out[c * args.out_many] = bias + results[c];
    }
  }
}

template <int kMany>
HWY_INLINE void AllFew(const DotsOfFewRows& args, int64_t j) {
  const int64_t n_few = args.few.dim(0);
  int64_t i = 0;
  for (; i + 4 <= n_few; i += 4) Tile<4, kMany>(args, i, j);
  if (i + 2 <= n_few) {
    Tile<2, kMany>(args, i, j);
    i += 2;
  }
  if (i < n_few) Tile<1, kMany>(args, i, j);
}

void DotsWithMany(const DotsOfFewRows& args, int64_t begin, int64_t end) {
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) AllFew<4>(args, j);
  for (; j < end; ++j) AllFew<1>(args, j);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(DotsWithMany);
}

void dots_of_few_rows(Device& device, const DotsOfFewRows& args) {
  for_each_block(device, args.many.dim(0), rows_per_block(args.many.dim(1)),
                 [&](int64_t begin, int64_t end) {
                   HWY_DYNAMIC_DISPATCH(DotsWithMany)(args, begin, end);
                 });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

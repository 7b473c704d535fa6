// SPDX-License-Identifier: Apache-2.0
// Decoding multiplies one row, or a few, with each weight matrix: bound by the reading of the
// weights, which are kept in vectors against all of the few rows. Four of their rows are read at a
// time, far apart: each walks on into the next row, and while one of the four waits at the end of a
// page, beyond which no hardware looks, the others go on. In a mapped file, whose pages have 4 KiB,
// that is a third faster than four rows side by side. Vectors of a file lie across cache lines, and
// waiting for two lines at once loses that again: lines are asked for kAhead bytes before. Four
// vectors of each row in turn read fastest.
#include "elapse/backends/cpu/dots.h"

#include <algorithm>
#include <cstring>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/dots_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/dots.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// `lanes` of p, widened to float.
HWY_INLINE V Widened(WholeLanes<D> lanes, const float* p) { return lanes.load(p); }
HWY_INLINE V Widened(FirstLanes<D> lanes, const float* p) { return lanes.load(p); }
template <class Half>
HWY_INLINE V Widened(WholeLanes<D> lanes, const Half* p) {
  return hn::PromoteTo(lanes.d, hn::LoadU(hn::Rebind<Half, D>(), p));
}
template <class Half>
HWY_INLINE V Widened(FirstLanes<D> lanes, const Half* p) {
  HWY_ALIGN Half buffer[hn::MaxLanes(D())] = {};
  std::memcpy(buffer, p, lanes.count * sizeof(Half));
  return Widened(WholeLanes<D>{lanes.d}, buffer);
}

// The results of kFew rows from i on with kMany rows: j, j + step, ...
template <class Weight, int kFew, int kMany>
HWY_INLINE void Tile(const DotsOfFewRows& args, int64_t i, int64_t j, int64_t step) {
  constexpr int64_t kLine = 64 / sizeof(Weight);
  V sums[kFew][kRowsOfTile];
  const Weight* many[kMany];
  HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) {
    many[c] = static_cast<const Weight*>(args.many.raw()) + (j + c * step) * args.many.stride(0);
  }
  HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
    HWY_UNROLL(4) for (int c = 0; c < kRowsOfTile; ++c) sums[r][c] = hn::Zero(D());
  }
  const float* few = row(args.few, i);
  const int64_t few_stride = args.few.stride(0);
  const auto add = [&](int64_t k, auto lanes) HWY_ATTR {
    V a[kFew];
    HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) a[r] = lanes.load(few + r * few_stride + k);
    HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) {
      if (k % kLine == 0) hwy::Prefetch(many[c] + k + kAhead / sizeof(Weight));
      const V b = Widened(lanes, many[c] + k);
      HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) sums[r][c] = hn::MulAdd(a[r], b, sums[r][c]);
    }
  };
  const int64_t length = args.few.dim(1), lanes = static_cast<int64_t>(hn::Lanes(D()));
  int64_t k = 0;
  for (; k + 4 * lanes <= length; k += 4 * lanes) {
    add(k, WholeLanes<D>{D()});
    add(k + lanes, WholeLanes<D>{D()});
    add(k + 2 * lanes, WholeLanes<D>{D()});
    add(k + 3 * lanes, WholeLanes<D>{D()});
  }
  ForLanes(D(), length - k, [&](int64_t at, auto rest) HWY_ATTR { add(k + at, rest); });
  HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
    float results[kRowsOfTile];
    SumsOf(D(), sums[r], results);
    store_tile_row<kMany>(args, i + r, j, step, results);
  }
}

template <class Weight>
void DotsWith(const DotsOfFewRows& args, int64_t begin, int64_t end) {
  for_each_tile(args.few.dim(0), begin, end,
                [&](auto few, auto many, int64_t i, int64_t j, int64_t step)
                    HWY_ATTR { Tile<Weight, few.value, many.value>(args, i, j, step); });
}

void DotsWithMany(const DotsOfFewRows& args, int64_t begin, int64_t end) {
  switch (args.many.dtype()) {
    case DType::bf16:
      return DotsWith<hwy::bfloat16_t>(args, begin, end);
    case DType::f16:
      return DotsWith<hwy::float16_t>(args, begin, end);
    default:
      return DotsWith<float>(args, begin, end);
  }
}

template <class Half>
void WidenTo(const Tensor& from, float* to) {
  const auto* halves = static_cast<const Half*>(from.raw());
  ForLanes(D(), from.numel(), [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(Widened(lanes, halves + i), to + i);
  });
}

void Widen(const Tensor& from, float* to) {
  if (from.dtype() == DType::bf16) WidenTo<hwy::bfloat16_t>(from, to);
  else WidenTo<hwy::float16_t>(from, to);
}

// to[i] = from[i] in bf16, to nearest, ties to even.
void RoundToBf16(const float* from, int64_t count, uint16_t* to) {
  const hn::RebindToUnsigned<D> bits;
  const hn::RebindToSigned<D> integers;
  ForLanes(D(), count, [&](int64_t i, auto lanes) HWY_ATTR {
    const V v = lanes.load(from + i);
    const auto u = hn::BitCast(bits, v);
    const auto high = hn::ShiftRight<16>(u);
    const auto to_even = hn::Add(hn::Set(bits, 0x7FFF), hn::And(high, hn::Set(bits, 1)));
    const auto rounded = hn::ShiftRight<16>(hn::Add(u, to_even));
    const auto quiet_nan = hn::Or(high, hn::Set(bits, 0x40));
    const auto nan = hn::MaskFromVec(hn::BitCast(bits, hn::VecFromMask(D(), hn::IsNaN(v))));
    const auto result = hn::BitCast(integers, hn::IfThenElse(nan, quiet_nan, rounded));
    HWY_ALIGN uint16_t narrow[hn::MaxLanes(D())];
    hn::Store(hn::DemoteTo(hn::Rebind<uint16_t, D>(), result), hn::Rebind<uint16_t, D>(), narrow);
    const int64_t left = std::min<int64_t>(count - i, hn::Lanes(D()));
    std::memcpy(to + i, narrow, static_cast<size_t>(left) * sizeof(uint16_t));
  });
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(DotsWithMany);
HWY_EXPORT(RoundToBf16);
HWY_EXPORT(Widen);

// Where parts of the rows of `many` begin, and the end of the last: half of a thread's share of
// what is left, time and again. Threads seldom read equally fast; the short parts at the end make
// up for it.
std::vector<int64_t> parts_for(const Device& device, const Tensor& many) {
  constexpr int64_t kLeastBytes = 1 << 17;
  const int64_t rows = many.dim(0), threads = device.threads();
  if (threads == 1 || many.bytes() < kLeastBytes) return {0, rows};
  const int64_t least = std::max<int64_t>(1, rows * kLeastBytes / many.bytes());
  std::vector<int64_t> bounds = {0};
  while (bounds.back() < rows) {
    const int64_t left = rows - bounds.back();
    bounds.push_back(rows - left + std::min(left, std::max(least, left / (2 * threads))));
  }
  return bounds;
}
}  // namespace

void dots_of_few_rows(Device& device, const DotsOfFewRows& args) {
  const std::vector<int64_t> bounds = parts_for(device, args.many);
  parallel_for(std::ssize(bounds) - 1, device.threads(), [&](int64_t i) {
    const int64_t begin = bounds[static_cast<size_t>(i)], end = bounds[static_cast<size_t>(i) + 1];
    if (args.few.dtype() == DType::bf16) bf16_dots_of_few_rows(args, begin, end);
    else HWY_DYNAMIC_DISPATCH(DotsWithMany)(args, begin, end);
  });
}

void dots_of_few_rows_here(const DotsOfFewRows& args) {
  HWY_DYNAMIC_DISPATCH(DotsWithMany)(args, 0, args.many.dim(0));
}

void widen_rows(const Tensor& from, const Tensor& to) {
  HWY_DYNAMIC_DISPATCH(Widen)(from, to.data<float>());
}

Tensor transposed(Device& device, const Tensor& matrix) {
  const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  const Tensor out = device.empty(DType::f32, {columns, rows});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) row(out, c)[r] = row(matrix, r)[c];
  }
  return out;
}

Tensor widened(Device& device, const Tensor& weight) {
  if (weight.dtype() == DType::f32) return weight;
  const Tensor out = device.empty(DType::f32, weight.shape());
  for_each_block(device, weight.dim(0), rows_per_block(weight.dim(1)),
                 [&](int64_t begin, int64_t end) {
                   widen_rows(weight.rows(begin, end), out.rows(begin, end));
                 });
  return out;
}

void round_to_bf16(const float* from, int64_t count, uint16_t* to) {
  HWY_DYNAMIC_DISPATCH(RoundToBf16)(from, count, to);
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

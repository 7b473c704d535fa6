// SPDX-License-Identifier: Apache-2.0
// Walking arrays of any length in vectors: included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_LANES_INL_H_
#undef ELAPSE_BACKENDS_CPU_LANES_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_LANES_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstring>

#include "elapse/core/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A whole vector in memory. put() stores a result, as ForLanes says.
template <class D>
struct WholeLanes {
  using V = hn::Vec<D>;
  D d;

  HWY_INLINE V load(const float* p) const { return hn::LoadU(d, p); }
  HWY_INLINE V load_or(V, const float* p) const { return hn::LoadU(d, p); }
  HWY_INLINE void store(V v, float* p) const { hn::StoreU(v, d, p); }
  HWY_INLINE void put(V v, float* p) const { store(v, p); }
  HWY_INLINE V keep(V v) const { return v; }
};

template <class D>
struct StreamedLanes : WholeLanes<D> {
  using V = hn::Vec<D>;

  HWY_INLINE void put(V v, float* p) const { hn::Stream(v, this->d, p); }
};

// The first `count` lanes of a vector, fewer than all: the other lanes load as 0, or as those of
// `other`, and are never touched in memory. keep() clears what was computed in them.
template <class D>
struct FirstLanes {
  using V = hn::Vec<D>;
  D d;
  size_t count;

  HWY_INLINE V load_or(V other, const float* p) const {
    return hn::IfThenElse(hn::FirstN(d, count), load(p), other);
  }
  HWY_INLINE void put(V v, float* p) const { store(v, p); }
  HWY_INLINE V keep(V v) const { return hn::IfThenElseZero(hn::FirstN(d, count), v); }
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_INLINE V load(const float* p) const {
    HWY_ALIGN float buffer[hn::MaxLanes(D())] = {};
    std::memcpy(buffer, p, count * sizeof(float));
    return hn::Load(d, buffer);
  }
  HWY_INLINE void store(V v, float* p) const {
    HWY_ALIGN float buffer[hn::MaxLanes(D())];
    hn::Store(v, d, buffer);
    std::memcpy(p, buffer, count * sizeof(float));
  }
#else
  HWY_INLINE V load(const float* p) const { return hn::MaskedLoad(hn::FirstN(d, count), d, p); }
  HWY_INLINE void store(V v, float* p) const { hn::BlendedStore(v, hn::FirstN(d, count), d, p); }
#endif
};

// Calls body(i, lanes) for i = 0, Lanes(d), ... below n; `lanes` loads and stores what is left of
// the array there.
template <class D, class Body>
HWY_INLINE void ForLanes(D d, int64_t n, Body&& body) {
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + step <= n; i += step) body(i, WholeLanes<D>{d});
  if (i < n) body(i, FirstLanes<D>{d, static_cast<size_t>(n - i)});
}

// The same, put() storing past the caches: the kernel calls hwy::FlushStream() before it returns.
template <class D, class Body>
HWY_INLINE void ForLanesStreamed(D d, int64_t n, Body&& body) {
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + step <= n; i += step) body(i, StreamedLanes<D>{{d}});
  if (i < n) body(i, FirstLanes<D>{d, static_cast<size_t>(n - i)});
}

template <class D, class Body>
HWY_INLINE void ForLanes(D d, int64_t n, bool streamed, Body&& body) {
  if (streamed) ForLanesStreamed(d, n, body);
  else ForLanes(d, n, body);
}

// Whether results at `row`, within `whole`, are to be streamed: nothing of so large a tensor is
// left in the caches when it is read, and a line written whole need not be fetched first.
template <class D>
HWY_INLINE bool StreamsTo(D d, const Tensor& whole, const float* row) {
  constexpr int64_t kLeast = int64_t{8} << 20;  // floats, as large as a last-level cache
  const uintptr_t vector_bytes = hn::Lanes(d) * sizeof(float);
  return whole.numel() >= kLeast && reinterpret_cast<uintptr_t>(row) % vector_bytes == 0;
}

// v = body(i, lanes, v) as ForLanes walks, in four chains so that no step waits for the one before;
// each starts from `initial`. `whole` are the lanes of whole vectors. Returns join of the four.
template <class Lanes, class V, class Body, class Join>
HWY_INLINE V FoldLanes(Lanes whole, int64_t n, V initial, Body&& body, Join&& join) {
  using D = decltype(whole.d);
  const int64_t step = static_cast<int64_t>(hn::Lanes(whole.d));
  V v0 = initial, v1 = initial, v2 = initial, v3 = initial;
  int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    v0 = body(i, whole, v0);
    v1 = body(i + step, whole, v1);
    v2 = body(i + 2 * step, whole, v2);
    v3 = body(i + 3 * step, whole, v3);
  }
  for (; i + step <= n; i += step) v0 = body(i, whole, v0);
  if (i < n) v1 = body(i, FirstLanes<D>{whole.d, static_cast<size_t>(n - i)}, v1);
  return join(join(v0, v1), join(v2, v3));
}

// What is asked for here is found in the second-level cache later; anything may be asked for.
HWY_INLINE void PrefetchToL2(const float* p) { __builtin_prefetch(p, 0, 2); }

template <class D>
HWY_INLINE float Sum(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}

// The sum of all lanes of what FoldLanes adds up from zero.
template <class Lanes, class Body>
HWY_INLINE float SumLanes(Lanes whole, int64_t n, Body&& body) {
  using V = typename Lanes::V;
  return Sum(whole.d, FoldLanes(whole, n, hn::Zero(whole.d), body,
                                [](V a, V b) HWY_ATTR { return hn::Add(a, b); }));
}

// out[c] = the sum of v[c]'s lanes.
template <class D, class V, size_t kCount>
HWY_INLINE void SumsOf(D d, const V (&v)[kCount], float* out) {
  for (size_t c = 0; c < kCount; ++c) out[c] = Sum(d, v[c]);
}

#if HWY_TARGET != HWY_SCALAR
// The sum of every fourth lane from lane i on, in lane i of 4.
template <class D>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> SumOfBlocks(D, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return SumOfBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// Four at a time need a third of the instructions.
template <class D, class V>
HWY_INLINE void SumsOf(D d, const V (&v)[4], float* out) {
  const hn::RepartitionToWide<D> pairs;
  const V ab = hn::Add(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1]));
  const V cd = hn::Add(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3]));
  const auto ab_pairs = hn::BitCast(pairs, ab), cd_pairs = hn::BitCast(pairs, cd);
  const V low = hn::BitCast(d, hn::InterleaveLower(pairs, ab_pairs, cd_pairs));
  const V high = hn::BitCast(d, hn::InterleaveUpper(pairs, ab_pairs, cd_pairs));
  hn::StoreU(SumOfBlocks(d, hn::Add(low, high)), hn::FixedTag<float, 4>(), out);
}
#endif

// out[c] += the sum of column c of a (rows, n) matrix, from the first row to the last.
template <class D>
HWY_INLINE void AddColumnSums(D d, const float* matrix, int64_t rows, int64_t row_stride, int64_t n,
                              float* out) {
  ForLanes(d, n, [&](int64_t c, auto lanes) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t r = 0; r < rows; ++r) sum = hn::Add(sum, lanes.load(matrix + r * row_stride + c));
    lanes.store(hn::Add(lanes.load(out + c), sum), out + c);
  });
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// SPDX-License-Identifier: Apache-2.0
// Convolutions of a block of channels, as many as a vector has lanes, for a filter that stands as
// (filter_len, lanes). Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_LONG_CONV_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_LONG_CONV_INL_H_
#undef ELAPSE_BACKENDS_CPU_LONG_CONV_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_LONG_CONV_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/convolution_plan.h"
#include "elapse/backends/cpu/fourier-inl.h"
#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

// The size of a signal, by channel: a power of two not above the largest magnitude, and within what
// it and `inverse`, its reciprocal, can be. Of a signal with an infinity or a NaN it is NaN, and
// `inverse` 0.
struct SignalSize {
  V size, inverse;
};
HWY_INLINE SignalSize SizeOf(hn::Vec<hn::RebindToSigned<D>> largest_bits) {
  const hn::RebindToSigned<D> di;
  constexpr int32_t kOne = 1 << 23, kSpecial = 255 * kOne;
  const auto exponent = hn::And(largest_bits, hn::Set(di, kSpecial));
  const auto special = hn::Eq(exponent, hn::Set(di, kSpecial));
  const auto within = hn::Min(hn::Max(exponent, hn::Set(di, kOne)), hn::Set(di, 253 * kOne));
  const auto inverse = hn::Sub(hn::Set(di, 254 * kOne), within);
  return {
      hn::BitCast(D(), hn::IfThenElse(special, hn::Or(exponent, hn::Set(di, kOne - 1)), within)),
      hn::BitCast(D(), hn::IfThenZeroElse(special, inverse))};
}

// The channels from e on, as many as `lanes` has, of the sequences that share a transform: `second`
// is -1 where there is none. A transform rounds to its largest numbers, and spreads what is not
// finite: so that neither reaches from one sequence to the other, both enter divided by their
// sizes, what is not finite as zeros, and leave multiplied by them.
template <class Lanes>
struct SequencePair {
  struct Sizes {
    SignalSize first, second;
  };

  const Sequences& seqs;
  Lanes lanes;
  int64_t e, first, second;

  int64_t begin(int64_t s) const { return seqs.cu_seqlens.data<int64_t>()[s]; }
  int64_t length(int64_t s) const { return s < 0 ? 0 : seqs.lengths[static_cast<size_t>(s)]; }

  // z = the signals divided by their sizes, then zeros up to `size`.
  Sizes LoadDivided(const Tensor& x, int64_t size, float* z) const {
    float* z_second = z + LaneCount();
    const Sizes sizes = {LoadPart(x, first, size, z), LoadPart(x, second, size, z_second)};
    Divide(sizes.first, first, z);
    Divide(sizes.second, second, z_second);
    return sizes;
  }
  // z = the signals times those sizes, then zeros up to `size`.
  void LoadMultiplied(const Tensor& x, const Sizes& sizes, int64_t size, float* z) const {
    LoadPart(x, first, size, z);
    LoadPart(x, second, size, z + LaneCount());
    Multiply(sizes.first.size, first, z);
    Multiply(sizes.second.size, second, z + LaneCount());
  }
  void StoreMultiplied(const float* z, const Sizes& sizes, const Tensor& y) const {
    StorePart(z, sizes.first.size, first, y);
    StorePart(z + LaneCount(), sizes.second.size, second, y);
  }

 private:
  SignalSize LoadPart(const Tensor& x, int64_t s, int64_t size, float* part) const {
    const hn::RebindToSigned<D> di;
    const int64_t step = 2 * LaneCount(), len = length(s);
    auto largest = hn::Zero(di);
    for (int64_t t = 0; t < len; ++t) {
      const V value = lanes.load(row(x, begin(s) + t) + e);
      largest = hn::Max(largest, hn::BitCast(di, hn::Abs(value)));  // NaN's are the largest of all
      hn::Store(value, D(), part + t * step);
    }
    for (int64_t t = len; t < size; ++t) hn::Store(hn::Zero(D()), D(), part + t * step);
    return SizeOf(largest);
  }
  void Divide(const SignalSize& by, int64_t s, float* part) const {
    const auto finite = hn::Ne(by.inverse, hn::Zero(D()));
    ForEach(s, part, [&](V value) HWY_ATTR {
      return hn::IfThenElseZero(finite, hn::Mul(value, by.inverse));
    });
  }
  void Multiply(V by, int64_t s, float* part) const {
    ForEach(s, part, [&](V value) HWY_ATTR { return hn::Mul(value, by); });
  }
  template <class Change>
  HWY_INLINE void ForEach(int64_t s, float* part, Change&& change) const {
    for (int64_t t = 0; t < length(s); ++t) {
      float* at = part + t * 2 * LaneCount();
      hn::Store(change(hn::Load(D(), at)), D(), at);
    }
  }
  void StorePart(const float* part, V size, int64_t s, const Tensor& y) const {
    for (int64_t t = 0; t < length(s); ++t) {
      const V value = hn::Mul(hn::Load(D(), part + t * 2 * LaneCount()), size);
      lanes.store(value, row(y, begin(s) + t) + e);
    }
  }
};

template <class Lanes>
SequencePair<Lanes> PairOf(const ConvolutionGroup& group, const Sequences& seqs, Lanes lanes,
                           int64_t e, int64_t pair) {
  const auto at = static_cast<size_t>(2 * pair);
  const bool alone = at + 1 == group.sequences.size();
  return {seqs, lanes, e, group.sequences[at], alone ? -1 : group.sequences[at + 1]};
}

// The filter's transform over `size`, for which transforms and their inverses are one another's.
inline void TransformFilter(const ConvolutionGroup& group, const float* filter, float* spectrum) {
  const V scale = hn::Set(D(), 1.0f / static_cast<float>(group.size));
  for (int64_t k = 0; k < group.size; ++k) {
    const bool inside = k < group.filter_len;
    const V value = inside ? hn::Load(D(), filter + k * LaneCount()) : hn::Zero(D());
    StoreComplex({hn::Mul(value, scale), hn::Zero(D())}, spectrum, k);
  }
  Transform(spectrum, group.size, group.roots.data());
}

// `scratch`: 4 size lanes floats.
template <class Lanes>
void ConvolveBlock(const ConvolutionGroup& group, const Sequences& seqs, Lanes lanes, int64_t e,
                   const float* filter, const Tensor& x, const Tensor& y, float* scratch) {
  float *spectrum = scratch, *z = scratch + 2 * group.size * LaneCount();
  TransformFilter(group, filter, spectrum);
  for (int64_t pair = 0; pair < group.pairs(); ++pair) {
    const auto sequences = PairOf(group, seqs, lanes, e, pair);
    const auto sizes = sequences.LoadDivided(x, group.size, z);
    Transform(z, group.size, group.roots.data());
    for (int64_t k = 0; k < group.size; ++k) {
      StoreComplex(Mul(LoadComplex(z, k), LoadComplex(spectrum, k)), z, k);
    }
    Invert(z, group.size, group.roots.data());
    sequences.StoreMultiplied(z, sizes, y);
  }
}

// dx is assigned, dfilter (filter_len, lanes) added to. `scratch`: 8 size lanes floats. What dy is
// divided by, x is multiplied by: their products are dfilter's, which is a sum over the sequences.
template <class Lanes>
void ConvolveBlockBackward(const ConvolutionGroup& group, const Sequences& seqs, Lanes lanes,
                           int64_t e, const float* filter, const Tensor& x, const Tensor& dy,
                           const Tensor& dx, float* dfilter, float* scratch) {
  const int64_t apart = 2 * group.size * LaneCount();
  float *spectrum = scratch, *dspectrum = scratch + apart;
  float *z = scratch + 2 * apart, *dz = scratch + 3 * apart;
  TransformFilter(group, filter, spectrum);
  std::fill_n(dspectrum, apart, 0.0f);
  for (int64_t pair = 0; pair < group.pairs(); ++pair) {
    const auto sequences = PairOf(group, seqs, lanes, e, pair);
    const auto sizes = sequences.LoadDivided(dy, group.size, dz);
    sequences.LoadMultiplied(x, sizes, group.size, z);
    Transform(z, group.size, group.roots.data());
    Transform(dz, group.size, group.roots.data());
    for (int64_t k = 0; k < group.size; ++k) {
      const Complex d = LoadComplex(dz, k);
      const Complex share = MulConjugate(d, LoadComplex(z, k));
      StoreComplex(Add(LoadComplex(dspectrum, k), share), dspectrum, k);
      StoreComplex(MulConjugate(d, LoadComplex(spectrum, k)), dz, k);
    }
    Invert(dz, group.size, group.roots.data());
    sequences.StoreMultiplied(dz, sizes, dx);
  }
  // Two sequences' products with one another are imaginary.
  Invert(dspectrum, group.size, group.roots.data());
  const V scale = hn::Set(D(), 1.0f / static_cast<float>(group.size));
  for (int64_t k = 0; k < group.filter_len; ++k) {
    float* to = dfilter + k * LaneCount();
    const V d = LoadComplex(dspectrum, k).re;
    hn::Store(hn::MulAdd(d, scale, hn::Load(D(), to)), D(), to);
  }
}

// Calls body(lanes) for the channels from e on: of d_inner, or as many as a vector holds.
template <class Body>
HWY_INLINE void WithLanes(int64_t e, int64_t d_inner, Body&& body) {
  if (d_inner - e >= LaneCount()) body(WholeLanes<D>{D()});
  else body(FirstLanes<D>{D(), static_cast<size_t>(d_inner - e)});
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

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

// The channels from e on, as many as `lanes` has, of the sequences that share a transform: `second`
// is -1 where there is none.
template <class Lanes>
struct SequencePair {
  const Sequences& seqs;
  Lanes lanes;
  int64_t e, first, second;

  int64_t begin(int64_t s) const { return seqs.cu_seqlens.data<int64_t>()[s]; }
  int64_t length(int64_t s) const { return s < 0 ? 0 : seqs.lengths[static_cast<size_t>(s)]; }

  // z = the signal, then zeros up to `size`.
  void Load(const Tensor& x, int64_t size, float* z) const {
    LoadPart(x, first, size, z);
    LoadPart(x, second, size, z + LaneCount());
  }
  void Store(const float* z, const Tensor& y) const {
    StorePart(z, first, y);
    StorePart(z + LaneCount(), second, y);
  }

 private:
  void LoadPart(const Tensor& x, int64_t s, int64_t size, float* part) const {
    const int64_t step = 2 * LaneCount(), len = length(s);
    for (int64_t t = 0; t < len; ++t) {
      hn::Store(lanes.load(row(x, begin(s) + t) + e), D(), part + t * step);
    }
    for (int64_t t = len; t < size; ++t) hn::Store(hn::Zero(D()), D(), part + t * step);
  }
  void StorePart(const float* part, int64_t s, const Tensor& y) const {
    for (int64_t t = 0; t < length(s); ++t) {
      lanes.store(hn::Load(D(), part + t * 2 * LaneCount()), row(y, begin(s) + t) + e);
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
    sequences.Load(x, group.size, z);
    Transform(z, group.size, group.roots.data());
    for (int64_t k = 0; k < group.size; ++k) {
      StoreComplex(Mul(LoadComplex(z, k), LoadComplex(spectrum, k)), z, k);
    }
    Invert(z, group.size, group.roots.data());
    sequences.Store(z, y);
  }
}

// dx is assigned, dfilter (filter_len, lanes) added to. `scratch`: 8 size lanes floats.
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
    sequences.Load(x, group.size, z);
    Transform(z, group.size, group.roots.data());
    sequences.Load(dy, group.size, dz);
    Transform(dz, group.size, group.roots.data());
    for (int64_t k = 0; k < group.size; ++k) {
      const Complex d = LoadComplex(dz, k);
      const Complex share = MulConjugate(d, LoadComplex(z, k));
      StoreComplex(Add(LoadComplex(dspectrum, k), share), dspectrum, k);
      StoreComplex(MulConjugate(d, LoadComplex(spectrum, k)), dz, k);
    }
    Invert(dz, group.size, group.roots.data());
    sequences.Store(dz, dx);
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

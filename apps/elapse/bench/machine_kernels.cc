// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/machine_kernels.h"

// Chains stand in arrays of vectors, which vectors of unknown size do not allow.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "apps/elapse/bench/machine_kernels.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace elapse::bench::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int kChains = 12;  // with two constants, within 16 registers

template <int kCount>
HWY_INLINE float TotalOf(const V (&chains)[kCount]) {
  V total = chains[0];
  for (int i = 1; i < kCount; ++i) total = hn::Add(total, chains[i]);
  return hn::GetLane(hn::SumOfLanes(D(), total));
}

// Four streams, of which some read on while another waits at the end of a page, beyond which no
// hardware looks ahead; and vectors may lie across lines, which are asked for before.
float SumOf(const float* data, int64_t count) {
  constexpr int kStreams = 4;
  constexpr int64_t kAhead = 256;
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), stream = count / kStreams;
  V sums[kStreams][2];
  HWY_UNROLL(4)
  for (int s = 0; s < kStreams; ++s) sums[s][0] = sums[s][1] = hn::Zero(d);
  for (int64_t at = 0; at < stream; at += 2 * lanes) {
    HWY_UNROLL(4)
    for (int s = 0; s < kStreams; ++s) {
      const float* p = data + s * stream + at;
      hwy::Prefetch(p + kAhead);
      hwy::Prefetch(p + kAhead + lanes);
      sums[s][0] = hn::Add(sums[s][0], hn::LoadU(d, p));
      sums[s][1] = hn::Add(sums[s][1], hn::LoadU(d, p + lanes));
    }
  }
  HWY_UNROLL(4)
  for (int s = 0; s < kStreams; ++s) sums[s][0] = hn::Add(sums[s][0], sums[s][1]);
  return TotalOf({sums[0][0], sums[1][0], sums[2][0], sums[3][0]});
}

void StreamBlock(const float* from, float* to, int64_t count) {
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t at = 0; at < count; at += lanes) hn::Stream(hn::Load(d, from + at), d, to + at);
  hwy::FlushStream();
}

float MultiplyAdds(int64_t rounds) {
  const D d;
  const V factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  V chains[kChains];
  HWY_UNROLL(12)
  for (int i = 0; i < kChains; ++i) chains[i] = hn::Set(d, static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
    HWY_UNROLL(12)
    for (int i = 0; i < kChains; ++i) chains[i] = hn::MulAdd(chains[i], factor, term);
  }
  return TotalOf(chains);
}

int64_t MultiplyAddsPerRound() { return kChains * static_cast<int64_t>(hn::Lanes(D())); }

}  // namespace
}  // namespace elapse::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::bench {

HWY_EXPORT(SumOf);
HWY_EXPORT(StreamBlock);
HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(MultiplyAddsPerRound);

float sum_of(const float* data, int64_t count) { return HWY_DYNAMIC_DISPATCH(SumOf)(data, count); }
void stream(const float* from, float* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(StreamBlock)(from, to, count);
}
float multiply_adds(int64_t rounds) { return HWY_DYNAMIC_DISPATCH(MultiplyAdds)(rounds); }
int64_t multiply_adds_per_round() { return HWY_DYNAMIC_DISPATCH(MultiplyAddsPerRound)(); }

}  // namespace elapse::bench
#endif  // HWY_ONCE

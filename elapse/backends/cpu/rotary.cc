// SPDX-License-Identifier: Apache-2.0
// Rotary positions. A position's cosines and sines are made once, in double, and turn all heads.
//
// Bound: reading and writing x, 8 bytes an element; a pair's cosine and sine cost some 20 ns for
// all heads together.
#include <cmath>

#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/rotary.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// One head: the pairs x[i], x[i + half].
void TurnHead(const float* x, const float* cosines, const float* sines, int64_t half, float* out) {
  const hn::ScalableTag<float> d;
  ForLanes(d, half, [&](int64_t i, auto lanes) HWY_ATTR {
    const auto a = lanes.load(x + i), b = lanes.load(x + half + i);
    const auto cosine = lanes.load(cosines + i), sine = lanes.load(sines + i);
    lanes.store(hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), out + i);
    lanes.store(hn::MulAdd(b, cosine, hn::Mul(a, sine)), out + half + i);
  });
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(TurnHead);

void turn_token(const Rotary& args, int64_t token, double position, float* cosines, float* sines) {
  const auto half = std::ssize(args.frequencies);
  for (int64_t i = 0; i < half; ++i) {
    const auto at = static_cast<size_t>(i);
    const double angle = position * args.frequencies[at];
    const double scale = args.growth.empty() ? 1 : std::exp(position * args.growth[at]);
    cosines[i] = static_cast<float>(scale * std::cos(angle));
    sines[i] = static_cast<float>(scale * std::sin(angle));
  }
  for (int64_t column = 0; column < args.x.dim(1); column += args.head_dim) {
    HWY_DYNAMIC_DISPATCH(TurnHead)
    (row(args.x, token) + column, cosines, sines, half, row(args.out, token) + column);
  }
}

// By packed token.
std::vector<double> positions_of(const Rotary& args) {
  std::vector<double> positions;
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    for (int64_t i = 0; i < args.seqs.lengths[static_cast<size_t>(s)]; ++i) {
      positions.push_back(static_cast<double>(args.first_position(s) + i));
    }
  }
  return positions;
}

}  // namespace

void rotary(Device& device, const Rotary& args) {
  const std::vector<double> positions = positions_of(args);
  for_each_block(
      device, args.seqs.tokens, rows_per_block(args.x.dim(1)), [&](int64_t begin, int64_t end) {
        std::vector<float> cosines(args.frequencies.size()), sines(cosines.size());
        for (int64_t t = begin; t < end; ++t) {
          turn_token(args, t, positions[static_cast<size_t>(t)], cosines.data(), sines.data());
        }
      });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE

// SPDX-License-Identifier: Apache-2.0
// Products of bf16 rows by the processor's own instruction, which Highway does not have in all the
// versions we build with: two multiplications and additions in f32 a lane. The weights are read so
// quickly that widening them first would cost half as much again.
#include <cassert>

#include "elapse/backends/cpu/dots_tiles.h"

#if defined(__x86_64__)
#include <hwy/cache_control.h>
#include <immintrin.h>

// g++ 12 takes the empty vectors in its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// For these functions alone: a file compiled for such processors would leave copies of inline
// functions that the linker may choose for all.
#define ELAPSE_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define ELAPSE_BF16_INLINE ELAPSE_BF16_TARGET __attribute__((always_inline)) inline
#endif

namespace elapse::cpu {

#if defined(__x86_64__)
namespace {

struct WholeVector {
  ELAPSE_BF16_INLINE __m512bh operator()(const uint16_t* p) const {
    return (__m512bh)_mm512_loadu_si512(p);
  }
};

struct FirstLanes {
  __mmask32 lanes;

  ELAPSE_BF16_INLINE __m512bh operator()(const uint16_t* p) const {
    return (__m512bh)_mm512_maskz_loadu_epi16(lanes, p);
  }
};

const uint16_t* bf16_row(const Tensor& t, int64_t i) {
  return static_cast<const uint16_t*>(t.raw()) + i * t.stride(0);
}

// The products of kFew rows with a tile's rows of the many, as in dots.cc.
template <int kFew, int kMany>
struct TileSums {
  const uint16_t* few[kFew];
  const uint16_t* many[kMany];
  __m512 sums[kFew][kRowsOfTile];

  // Adds the products of the lanes that `load` loads at k.
  template <class Load>
  ELAPSE_BF16_INLINE void add(int64_t k, Load load) {
    __m512bh a[kFew];
    HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) a[r] = load(few[r] + k);
    HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) {
      hwy::Prefetch(many[c] + k + kAhead / 2);
      const __m512bh b = load(many[c] + k);
      HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], a[r], b);
      }
    }
  }
};

ELAPSE_BF16_INLINE __m128 sums_of_lanes(const __m512 (&v)[4]) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512d ab_pairs = _mm512_castps_pd(ab), cd_pairs = _mm512_castps_pd(cd);
  const __m512d low = _mm512_unpacklo_pd(ab_pairs, cd_pairs);
  const __m512d high = _mm512_unpackhi_pd(ab_pairs, cd_pairs);
  const __m512 of_four = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m512 of_eight = _mm512_add_ps(of_four, _mm512_shuffle_f32x4(of_four, of_four, 0b1110));
  const __m256 half = _mm512_castps512_ps256(of_eight);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

template <int kFew, int kMany>
ELAPSE_BF16_TARGET void multiply_tile(const DotsOfFewRows& args, int64_t i, int64_t j,
                                      int64_t step) {
  TileSums<kFew, kMany> tile;
  HWY_UNROLL(4) for (int c = 0; c < kMany; ++c) tile.many[c] = bf16_row(args.many, j + c * step);
  HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
    tile.few[r] = bf16_row(args.few, i + r);
    HWY_UNROLL(4) for (int c = 0; c < kRowsOfTile; ++c) tile.sums[r][c] = _mm512_setzero_ps();
  }
  const int64_t length = args.few.dim(1);
  int64_t k = 0;
  HWY_UNROLL(2)
  for (; k + 32 <= length; k += 32) tile.add(k, WholeVector());
  if (k < length) tile.add(k, FirstLanes{(1U << (length - k)) - 1});
  HWY_UNROLL(4) for (int r = 0; r < kFew; ++r) {
    float results[kRowsOfTile];
    _mm_storeu_ps(results, sums_of_lanes(tile.sums[r]));
    store_tile_row<kMany>(args, i + r, j, step, results);
  }
}

}  // namespace

bool multiplies_bf16() { return __builtin_cpu_supports("avx512bf16") != 0; }

void bf16_dots_of_few_rows(const DotsOfFewRows& args, int64_t begin, int64_t end) {
  for_each_tile(args.few.dim(0), begin, end,
                [&](auto few, auto many, int64_t i, int64_t j, int64_t step) {
                  multiply_tile<few.value, many.value>(args, i, j, step);
                });
}
#else
bool multiplies_bf16() { return false; }
void bf16_dots_of_few_rows(const DotsOfFewRows&, int64_t, int64_t) { assert(false); }
#endif

}  // namespace elapse::cpu

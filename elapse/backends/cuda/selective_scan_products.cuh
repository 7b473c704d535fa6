// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/selective_scan.cuh"

// With activations of 16 bits and up to 16 states, what couples tokens, channels and states is left
// to the matrix unit: products v B into the states of a warp's eight channels, and sums over
// states. Each lane brings the v of its own channel and token, or its states; no number is passed
// from lane to lane. Two tokens share a product: one in its upper rows, one in its lower.
//
// Factors have 11 bits (tf32). B and C, of 16 bits, are exact, and what is written into the state
// takes two parts, so that it has 22; what is read of the state, or of its gradient, is cut off
// after 11, for a sum that goes into 16 bits. The state itself is never rounded. In float32 two
// parts would be too few where sums cancel, and three would be slower than without.
//
// A zero does not silence what is not finite: such a B can reach up to three tokens before its own.
namespace elapse::cuda::scan {

// D (16, 8) += A (16, 8) B (8, 8), by a warp. Lane 4 r + q holds A at (r, q), (r + 8, q),
// (r, q + 4), (r + 8, q + 4), B at (q, r), (q + 4, r), and D at (r, 2q), (r, 2q + 1), (r + 8, 2q),
// (r + 8, 2q + 1). Of A and B the leading 11 bits are read.
__device__ inline void multiply(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// The leading 11 bits.
__device__ inline float leading(float v) {
  return __uint_as_float(__float_as_uint(v) & 0xffffe000u);
}
// What the rest amounts to on average, where a number's logarithm is uniform: 2^-11 / (2 ln 2).
inline constexpr float kCutOff = 1 + 3.522e-4f;
// 11 bits, and a rest that is as often negative.
__device__ inline float nearest(float v) { return leading(v * kCutOff); }

__device__ inline float masked(float v, uint32_t mask) {
  return __uint_as_float(__float_as_uint(v) & mask);
}

// What the compiler is to keep rather than to compute again.
template <class V>
__device__ inline V kept(V v, int lane) {
  return __shfl_sync(~0u, v, lane);
}

// All ones for the group's token that is the lane's own, else zeros.
struct OwnMasks {
  uint32_t of[kGroup];

  template <class At>
  __device__ explicit OwnMasks(const At& at) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) of[j] = kept(at.own == j ? ~0u : 0u, at.lane);
  }
};

// What is written into the states of a channel at four tokens: v B. Rows are channels, columns half
// of the states; what is summed over are the tokens, in high and in low parts of v.
template <class T>
struct Writes {
  const OwnMasks& own;
  float v, v_low, B[2];

  // `value` is that of the lane's own channel and token, `row` is B's of the token.
  template <class At>
  __device__ Writes(const At& at, const OwnMasks& masks, float value, const T* row)
      : own(masks),
        v(nearest(value)),
        v_low(value - v),
        B{static_cast<float>(row[at.c]), static_cast<float>(row[8 + at.c])} {}

  // To the states (2g, 2g + 1, 2g + 8, 2g + 9) of lane g at tokens j and j + 1.
  __device__ void at_tokens(int j, float (&out)[2][4]) const {
    const float a[4] = {masked(v, own.of[j]), masked(v, own.of[j + 1]), masked(v_low, own.of[j]),
                        masked(v_low, own.of[j + 1])};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float d[4] = {};
      multiply(d, a, {B[half], B[half]});
      out[0][half * 2] = d[0];
      out[0][half * 2 + 1] = d[1];
      out[1][half * 2] = d[2];
      out[1][half * 2 + 1] = d[3];
    }
  }
};

// Sums over a channel's states at four tokens: sum_n C h. Rows are channels, columns the tokens,
// each twice: for each token all tokens' C are tried, and the lane whose own it is takes its own.
template <class T>
struct Reads {
  const OwnMasks& masks;
  float C[4];
  uint32_t sum = 0;

  // With 1 for C.
  __device__ explicit Reads(const OwnMasks& own) : masks(own), C{1, 1, 1, 1} {}
  // `rows` are C's of the four tokens.
  template <class At, int kPadded>
  __device__ Reads(const At& at, const OwnMasks& own, const T (*rows)[kPadded]) : masks(own) {
    load_factors(rows[at.c / 2], at, C);
  }

  // Takes the lane's states at tokens j and j + 1 in.
  __device__ void add(int j, const float (&h)[2][4]) {
    float d[4] = {};
    multiply(d, {h[0][0], h[1][0], h[0][1], h[1][1]}, {C[0], C[1]});
    multiply(d, {h[0][2], h[1][2], h[0][3], h[1][3]}, {C[2], C[3]});
    sum |= __float_as_uint(d[0]) & masks.of[j];
    sum |= __float_as_uint(d[2]) & masks.of[j + 1];
  }

  // That of the lane's own channel and token.
  __device__ float own() const { return __uint_as_float(sum) * kCutOff; }
};

}  // namespace elapse::cuda::scan

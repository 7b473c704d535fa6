// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/selective_scan.cuh"

// Up to 16 states, products and sums that couple tokens, channels and states are the matrix unit's:
// v B into the states of a warp's eight channels, sums over states, sums over channels. Each lane
// brings what it has, the v of its own channel and token, or its states; no number is passed from
// lane to lane. Four tokens (sums over channels: eight) are in each factor; where one is meant, the
// others are zeros.
//
// Factors have 11 bits (tf32). In 32-bit arithmetic each is taken as the sum of two, without the
// product of the two low ones. With T of 16 bits B and C are exact, what is written into the state
// takes two, and what is read of the state, or of its gradient, is rounded once to the 11 bits:
// the sums then go into numbers of 16. The state itself is never rounded.
//
// A zero does not silence what is not finite: such an x can reach up to three tokens before its own
// in its channel, and such a gradient of out up to seven in dB and dC.
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

// To the nearest number of 11 bits.
__device__ inline float rounded(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
}

// Numbers of which the low parts are zero and left out where kExact.
template <int kCount, bool kExact>
struct Parts {
  float high[kCount], low[kCount];

  Parts() = default;
  __device__ explicit Parts(const float (&v)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      high[i] = kExact ? v[i] : rounded(v[i]);
      low[i] = kExact ? 0.0f : v[i] - high[i];
    }
  }
  // Zeros unless `meant`.
  __device__ Parts where(bool meant) const {
    Parts out;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      out.high[i] = meant ? high[i] : 0.0f;
      out.low[i] = kExact || !meant ? 0.0f : low[i];
    }
    return out;
  }
};

// A lane's four states, as they are read.
template <class T>
struct StateParts {
  float high[4], low[4];

  __device__ explicit StateParts(const float (&h)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i] = rounded(h[i]);
      low[i] = kIsNarrow<T> ? 0.0f : h[i] - high[i];
    }
  }
};

// What is written into the states of a channel at four tokens: v B. Rows of A are channels, once
// for each half of the states; what is summed over are the tokens, in both halves.
template <class T>
struct Writes {
  float v, v_low;
  Parts<2, kIsNarrow<T>> B;
  int own;

  // `value` is that of the lane's own channel and token, `row` is B's of the token.
  template <class At>
  __device__ Writes(const At& at, float value, const T* row)
      : v(rounded(value)),
        v_low(value - v),
        B({static_cast<float>(row[at.c]), static_cast<float>(row[8 + at.c])}),
        own(at.own) {}

  // To the states (2g, 2g + 1, 2g + 8, 2g + 9) of lane g at token j.
  __device__ void at_token(int j, float (&out)[4]) const {
    const auto b = B.where(own == j);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = 0;
    if constexpr (!kIsNarrow<T>) multiply(out, {v, 0, 0, v}, b.low);
    multiply(out, {v_low, 0, 0, v_low}, b.high);
    multiply(out, {v, 0, 0, v}, b.high);
  }
};

// Sums over a channel's states at four tokens: sum_n C h. Rows of h are channels, in both halves of
// the states; columns of C are the tokens, once for each half.
template <class T, bool kOnes = false>
struct Reads {
  static constexpr bool kExact = kOnes || kIsNarrow<T>;
  float sums[4] = {};
  Parts<2, kExact> C;
  int token;

  // With 1 for C.
  template <class At>
  __device__ explicit Reads(const At& at) : C({1, 1}), token(at.c % kGroup) {}
  // `rows` are C's of the four tokens.
  template <class At, int kPadded>
  __device__ Reads(const At& at, const T (*rows)[kPadded])
      : C({factor(at, rows, 0), factor(at, rows, 1)}), token(at.c % kGroup) {}

  // Takes token j's in.
  __device__ void add(int j, const StateParts<T>& h) {
    const auto c = C.where(token == j);
    if constexpr (!kIsNarrow<T>) {
      multiply(sums, {h.low[0], h.low[2], h.low[1], h.low[3]}, c.high);
    }
    if constexpr (!kExact) multiply(sums, {h.high[0], h.high[2], h.high[1], h.high[3]}, c.low);
    multiply(sums, {h.high[0], h.high[2], h.high[1], h.high[3]}, c.high);
  }

  // That of the lane's own channel and token.
  template <class At>
  __device__ float own(const At& at) const {
    const bool first = at.g < 2;
    return (first ? sums[0] : sums[3]) + __shfl_xor_sync(~0u, first ? sums[1] : sums[2], 2);
  }

 private:
  template <class At, int kPadded>
  __device__ static float factor(const At& at, const T (*rows)[kPadded], int i) {
    return static_cast<float>(rows[at.c % kGroup][at.c / kGroup * 8 + at.g * 2 + i]);
  }
};

// Sums over a warp's eight channels at eight tokens, for each of 16 states: sum_e v h. A product
// with ones turns h about, so that its columns are channels; then v's columns are the tokens.
template <class T>
struct ChannelSums {
  float sums[4] = {};
  Parts<2, false> v;
  float is_even, is_odd;  // whether the lane's channel, as a state, is its first or second
  int token;

  // v[e][i] is that of the warp's channel e and token i.
  template <class At, int kRow>
  __device__ ChannelSums(const At& at, const float (*rows)[kRow], int first)
      : v({rows[at.g * 2][first + at.c], rows[at.g * 2 + 1][first + at.c]}),
        is_even(at.c == at.g * 2 ? 1.0f : 0.0f),
        is_odd(at.c == at.g * 2 + 1 ? 1.0f : 0.0f),
        token(at.c) {}

  // Takes token i's in.
  __device__ void add(int i, const StateParts<T>& h) {
    float high[4], low[4];
    turn(h.high, high);
    const auto b = v.where(token == i);
    if constexpr (!kIsNarrow<T>) {
      turn(h.low, low);
      multiply(sums, {low[0], low[2], low[1], low[3]}, b.high);
      multiply(sums, {high[0], high[2], high[1], high[3]}, b.low);
    }
    multiply(sums, {high[0], high[2], high[1], high[3]}, b.high);
  }

  // Into rows of 16 states for each of the eight tokens.
  template <class At, int kRow>
  __device__ void store(const At& at, float (*rows)[kRow]) const {
    rows[at.g * 2][at.c] = sums[0];
    rows[at.g * 2 + 1][at.c] = sums[1];
    rows[at.g * 2][at.c + 8] = sums[2];
    rows[at.g * 2 + 1][at.c + 8] = sums[3];
  }

 private:
  __device__ void turn(const float (&h)[4], float (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = 0;
    multiply(out, {is_even, 0, is_odd, 0}, {h[0], h[1]});
    multiply(out, {0, is_even, 0, is_odd}, {h[2], h[3]});
  }
};

}  // namespace elapse::cuda::scan

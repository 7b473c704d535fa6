// SPDX-License-Identifier: Apache-2.0
// What both directions of gated linear attention share: a block of tokens of one head in rows of
// its own, decayed to the block's edges. Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_GATED_LINEAR_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_GATED_LINEAR_ATTENTION_INL_H_
#undef ELAPSE_BACKENDS_CPU_GATED_LINEAR_ATTENTION_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_GATED_LINEAR_ATTENTION_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <utility>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/product.h"
#include "elapse/backends/cpu/simd_math-inl.h"
#include "elapse/ops/gated_linear_attention.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Rows of products, of a block's tokens; those without a token are zeros, and their decays 1.
constexpr int64_t kBlock = GlaInputs::kBlock;

// Where a head's values are, and the sizes of its products.
struct GlaHead {
  GlaHead(const GlaInputs& in, int64_t i)
      : d_k(in.d_k()), d_v(in.d_v()), d_inner(in.d_inner()), key(i * d_k), channel(i * d_v) {}

  int64_t states() const { return d_v * d_k; }
  float* states_of(const Tensor& pool, int64_t slot) const {
    return pool.data<float>() + (slot * d_inner + channel) * d_k;
  }

  int64_t d_k, d_v, d_inner;
  int64_t key, channel;  // the head's first columns
};

// x[e][n] *= factor[n]
inline void ScaleColumns(const float* factor, int64_t rows, int64_t n, float* x) {
  for (int64_t e = 0; e < rows; ++e) {
    ForLanes(D(), n, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::Mul(lanes.load(factor + i), lanes.load(x + e * n + i)), x + e * n + i);
    });
  }
}

// A block in memory of its own.
class GlaBlock {
 public:
  static int64_t floats(const GlaInputs& in) {
    return kBlock * (5 * in.d_k() + in.d_v() + kBlock) + in.d_k();
  }

  GlaBlock(const GlaInputs& in, const GlaHead& head, float* memory) : in_(in), head_(head) {
    const auto take = [&](int64_t count) { return std::exchange(memory, memory + count); };
    for (float** keys : {&q, &k, &decay, &q_since, &k_left}) *keys = take(kBlock * head.d_k);
    v = take(kBlock * head.d_v);
    P = take(kBlock * kBlock);
    total = take(head.d_k);
  }

  // Tokens [token, token + len), for what is written to the states: decays, k_left, v and total.
  void load_writes(int64_t token, int64_t len) const {
    rows(in_.k, head_.key, head_.d_k, token, len, k);
    rows(in_.v, head_.channel, head_.d_v, token, len, v);
    const int64_t n = head_.d_k;
    for (int64_t i = 0; i < len; ++i) {
      const float* from = row(in_.log_decay, token + i) + head_.key;
      ForLanes(D(), n, [&](int64_t c, auto lanes) HWY_ATTR {
        lanes.store(Exp(D(), lanes.load(from + c)), decay + i * n + c);
      });
    }
    std::fill_n(decay + len * n, (kBlock - len) * n, 1.0f);
    std::fill_n(total, n, 1.0f);
    for (int64_t i = kBlock - 1; i >= 0; --i) {
      ForLanes(D(), n, [&](int64_t c, auto lanes) HWY_ATTR {
        const V left = lanes.load(total + c);
        lanes.store(hn::Mul(lanes.load(k + i * n + c), left), k_left + i * n + c);
        lanes.store(hn::Mul(lanes.load(decay + i * n + c), left), total + c);
      });
    }
  }

  // For what is read, once load_writes has run: q, q_since and P.
  void load_reads(int64_t token, int64_t len) const {
    const int64_t n = head_.d_k;
    rows(in_.q, head_.key, n, token, len, q);
    std::copy_n(q, kBlock * n, q_since);
    std::fill_n(P, kBlock * kBlock, 0.0f);
    for (int64_t j = kBlock - 1; j >= 0; --j) {
      int64_t i = j;
      for (; i + 4 <= kBlock; i += 4) column_of_P<4>(i, j);
      for (; i < kBlock; ++i) column_of_P<1>(i, j);
    }
  }

  // h = total h + v^T k_left, (d_v, d_k)
  void write_states(float* h) const {
    ScaleColumns(total, head_.d_v, head_.d_k, h);
    multiply({.m = head_.d_v,
              .n = head_.d_k,
              .k = kBlock,
              .a = {1, head_.d_v},
              .b = {head_.d_k, 1},
              .c_row = head_.d_k,
              .accumulates = true},
             v, k_left, h);
  }

  // Columns of some tokens, then zeros.
  static void rows(const Tensor& from, int64_t column, int64_t width, int64_t token, int64_t len,
                   float* to) {
    for (int64_t i = 0; i < len; ++i) {
      std::copy_n(row(from, token + i) + column, width, to + i * width);
    }
    std::fill_n(to + len * width, (kBlock - len) * width, 0.0f);
  }

  float *q, *k, *decay;  // (kBlock, d_k)
  float* q_since;        // (kBlock, d_k): q times the decays from the block's start on
  float* k_left;         // (kBlock, d_k): k times the decays after it, to the block's end
  float* v;              // (kBlock, d_v)
  float* P;              // (kBlock, kBlock): P[i][j] = sum_n q_i k_j (the decays after j up to i)
  float* total;          // (d_k): the product of all decays

 private:
  // P[i][j] of some rows i, whose q_since has the decays after j, and then that of j.
  template <int kRows>
  HWY_INLINE void column_of_P(int64_t i, int64_t j) const {
    const int64_t n = head_.d_k;
    V sums[kRows];
    HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) sums[r] = hn::Zero(D());
    ForLanes(D(), n, [&](int64_t c, auto lanes) HWY_ATTR {
      const V key = lanes.load(k + j * n + c), decayed = lanes.load(decay + j * n + c);
      HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
        float* query = q_since + (i + r) * n + c;
        const V asked = lanes.load(query);
        sums[r] = hn::MulAdd(asked, key, sums[r]);
        lanes.store(hn::Mul(asked, decayed), query);
      }
    });
    float products[kRows];
    SumsOf(D(), sums, products);
    for (int r = 0; r < kRows; ++r) P[(i + r) * kBlock + j] = products[r];
  }

  const GlaInputs& in_;
  const GlaHead& head_;
};

// One thread for work too small to share.
inline int GlaThreads(const Device& device, const GlaInputs& in) {
  constexpr int64_t kLeastShared = 1 << 17;  // updates of a state: some ten microseconds
  return in.seqs.tokens * in.d_inner() * in.d_k() < kLeastShared ? 1 : device.threads();
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

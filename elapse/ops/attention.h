// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"

namespace elapse {

// Keys and values of consecutive positions. Rows may be strided.
struct KeyValueRows {
  Tensor k;  // (positions, n_kv_heads * head_dim)
  Tensor v;  // (positions, n_kv_heads * head_dim)
};
// By sequence, runs of positions that stand before its first token, the last right before it. No
// sequences: nothing stands before any.
using PastRows = std::vector<std::vector<KeyValueRows>>;

// What a query sees: the positions at distances 0, dilation, 2 dilation ... below `window` (0: any)
// before it. A dilation with a window is the fixed pattern of strided sparse attention (Child et
// al., 2019) and of dilated sliding windows (Beltagy et al., 2020).
struct AttentionPattern {
  int64_t window = 0;
  int64_t dilation = 1;

  bool sees(int64_t distance) const {
    return distance >= 0 && distance % dilation == 0 && (window == 0 || distance < window);
  }
  bool operator==(const AttentionPattern&) const = default;
};

// Causal softmax attention (Vaswani et al., 2017) of query head h with the keys and values of head
// h / (n_heads / n_kv_heads) (Ainslie et al., 2023), per sequence, i a token's position and j those
// that it sees:
//   p[i, j] = softmax over j of (q[i] . k[j] / sqrt(head_dim));  z[i] = sum over j of p[i, j] v[j]
// Kernels may multiply what a token does not see, of its own sequence, by zero: a v that is not
// finite can make the z of tokens before it not a number.
// Of q's dtype. Where that is of 16 bits the past, its gradients and lse are float32, and kernels
// may round the past, p and the gradients of scores to 16 bits.
struct AttentionInputs {
  Tensor q;  // (tokens, n_heads * head_dim), rows may be strided, as those of k and v
  Tensor k;  // (tokens, n_kv_heads * head_dim)
  Tensor v;  // (tokens, n_kv_heads * head_dim)
  int64_t n_heads = 1;
  int64_t n_kv_heads = 1;  // divides n_heads
  AttentionPattern pattern = {};
  Sequences seqs;  // slots are not looked at
  PastRows past = {};

  int64_t head_dim() const { return q.dim(1) / n_heads; }
  int64_t kv_head_of(int64_t head) const { return head / (n_heads / n_kv_heads); }
  int64_t past_length(int64_t sequence) const;  // positions
};

struct AttentionForward {
  static constexpr Op kOp = Op::attention_forward;
  AttentionInputs in;
  Tensor z;  // (tokens, n_heads * head_dim), assigned
  Tensor
      lse;  // (tokens, n_heads), assigned: ln of the sum of exp(q . k / sqrt(head_dim)); or empty
};

struct AttentionBackward {
  static constexpr Op kOp = Op::attention_backward;
  Tensor dz;  // (tokens, n_heads * head_dim), rows may be strided
  AttentionInputs in;
  Tensor z;    // forward's
  Tensor lse;  // forward's
  Tensor dq;   // (tokens, n_heads * head_dim), assigned; rows may be strided, as those of dk and dv
  Tensor dk;   // (tokens, n_kv_heads * head_dim), assigned
  Tensor dv;   // (tokens, n_kv_heads * head_dim), assigned
  PastRows dpast;  // accumulated, as in.past; a run's may be empty, and so may be all: not wanted
};

// Pairs of a query and a position that it sees, of one head and sequence: forward multiplies 2
// head_dim numbers a pair, backward 5.
int64_t attention_pairs(const AttentionPattern& pattern, int64_t past, int64_t length);

void attention_forward(Device& device, const AttentionForward& args);
void attention_backward(Device& device, const AttentionBackward& args);

}  // namespace elapse

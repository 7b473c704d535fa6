// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Values of the recurrence, which a kernel that takes many tokens together never makes.
// decay: (tokens, n_heads d_k); write, h, readout_h: (tokens, d_inner, d_k).
// An edit of `h` is carried into later tokens; one of `readout_h` changes its own token's y only.
struct GlaTaps {
  Tap decay, write, h, readout_h;

  bool active_forward() const;
  bool edited() const;
  bool active_backward() const;
};

// What forward and backward both read. Rows of (tokens, .) tensors may be strided.
struct GlaInputs {
  static constexpr int64_t kChunk = 64;
  static constexpr int64_t kBlock = 16;  // tokens that a kernel may multiply together

  Tensor q;          // (tokens, n_heads d_k): head i has the columns from i d_k on
  Tensor k;          // (tokens, n_heads d_k)
  Tensor v;          // (tokens, d_inner): head i has d_v channels, from i d_v on
  Tensor log_decay;  // (tokens, n_heads d_k), at most 0
  int64_t n_heads = 1;
  int64_t chunk = kChunk;  // tokens between the states that forward leaves for backward
  Sequences seqs;

  int64_t d_inner() const { return v.dim(1); }
  int64_t d_k() const { return q.dim(1) / n_heads; }
  int64_t d_v() const { return d_inner() / n_heads; }
  Shape decay_shape() const { return q.shape(); }
  Shape states_shape() const { return {seqs.tokens, d_inner(), d_k()}; }
};

// Linear attention with a decay for each channel of the keys (Yang et al., 2023, "Gated Linear
// Attention Transformers"), for each sequence and head, channel e of d_v and n of d_k, h[-1] from
// the start slot:
//   decay = exp(log_decay)                write = v[e] k[n]
//   h[t]  = decay[n] h[t-1] + write       out   = sum_n q[n] h          (readout_h = h)
// An infinity or NaN in k, v or q may reach some earlier tokens of its head, as a product with
// zero.
struct GlaForward {
  static constexpr Op kOp = Op::gla_forward;
  GlaInputs in;
  Tensor pool;         // (slots, d_inner, d_k), read and written; or empty
  Tensor checkpoints;  // (gla_checkpoint_count, d_inner, d_k), assigned for backward; or empty
  Tensor out;          // (tokens, d_inner), assigned
  GlaTaps taps;
};

// Rows of `checkpoints`: sequence s owns the rows from gla_checkpoint_begin(cu_seqlens[s], s) on,
// one for its start and one after every chunk that is followed by another token.
inline int64_t gla_checkpoint_begin(const GlaInputs& in, int64_t cu, int64_t s) {
  return cu / in.chunk + s;
}
inline int64_t gla_checkpoint_count(const GlaInputs& in) {
  return gla_checkpoint_begin(in, in.seqs.tokens, in.seqs.count());
}

struct GlaBackward {
  static constexpr Op kOp = Op::gla_backward;
  Tensor dout;  // (tokens, d_inner)
  GlaInputs in;
  Tensor checkpoints;  // as forward left them
  GlaTaps taps;        // forward's edits, and gradients; nothing is watched
  Tensor dq;           // (tokens, n_heads d_k), assigned, rows may be strided; so too
  Tensor dk;           // (tokens, n_heads d_k)
  Tensor dv;           // (tokens, d_inner)
  Tensor dlog_decay;   // (tokens, n_heads d_k)
  Tensor dpool;        // (slots, d_inner, d_k), see Sequences; or empty: not wanted
};

// The same, token by token, every inner value made: what kernels turn to where somebody watches or
// edits the recurrence.
struct GlaForwardByTokens {
  static constexpr Op kOp = Op::gla_forward_by_tokens;
  GlaForward call;
  struct Edited {
    bool states = false;  // an edit changed a decay, a write or a state
    bool reads = false;   // or what was read of them alone
  };
  Edited* edited;  // assigned where it holds
};
struct GlaBackwardByTokens {
  static constexpr Op kOp = Op::gla_backward_by_tokens;
  GlaBackward call;
};

// Multiplications of forward for one head of a sequence: a single token decays, writes and reads
// its states; more go in blocks of kBlock tokens, a block's states decayed once, and each token
// beside those of its block. They grow as the length does, and a token's do not know its position.
inline int64_t gla_multiplications(int64_t d_k, int64_t d_v, int64_t len) {
  constexpr int64_t kBlock = GlaInputs::kBlock;
  if (len == 1) return 3 * d_k * d_v;
  const int64_t blocks = (len + kBlock - 1) / kBlock;
  const int64_t states = (2 * kBlock + 1) * d_k * d_v, within = kBlock * kBlock * d_v;
  return blocks * (states + within + kBlock * (kBlock + 1) * d_k);
}

void gla_forward(Device& device, const GlaForward& args);
void gla_backward(Device& device, const GlaBackward& args);

}  // namespace elapse

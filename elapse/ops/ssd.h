// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <limits>

#include "elapse/ops/sequences.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Inner values of the state-space dual that can be watched and edited, in the order they arise.
// (tokens, n_heads): dt_pre, dt, decay. (tokens, n_heads, d_state): B_bar.
// (tokens, d_inner, d_state): write, h, readout_h. (tokens, d_inner): y.
// An edit of `h` is carried into later tokens; one of `readout_h` changes its own token's y only.
enum class SsdPoint : uint8_t { dt_pre, dt, decay, B_bar, write, h, readout_h, y, count };
using SsdTaps = std::array<Tap, static_cast<size_t>(SsdPoint::count)>;

inline Tap& tap(SsdTaps& taps, SsdPoint p) { return taps[static_cast<size_t>(p)]; }
inline const Tap& tap(const SsdTaps& taps, SsdPoint p) { return taps[static_cast<size_t>(p)]; }

// Values of the recurrence itself, which a kernel that takes many tokens together never makes.
inline bool is_of_recurrence(SsdPoint p) {
  return p >= SsdPoint::decay && p <= SsdPoint::readout_h;
}
bool recurrence_is_active_forward(const SsdTaps& taps);
bool recurrence_is_edited(const SsdTaps& taps);
bool recurrence_is_active_backward(const SsdTaps& taps);

// What forward and backward both read. Rows of (tokens, .) tensors may be strided.
struct SsdInputs {
  static constexpr int64_t kChunk = 64;

  Tensor x;              // (tokens, d_inner): head k has head_dim channels, from k head_dim on
  Tensor dt_raw;         // (tokens, n_heads): step size before bias and softplus
  Tensor dt_bias;        // (n_heads)
  Tensor A;              // (n_heads), negative
  Tensor B;              // (tokens, n_groups d_state): head k reads group k / (n_heads / n_groups)
  Tensor C;              // (tokens, n_groups d_state)
  Tensor D;              // (n_heads), or (d_inner): a number for each channel
  int64_t n_groups = 1;  // divides n_heads
  double dt_min = 0;     // limits of dt
  double dt_max = std::numeric_limits<double>::infinity();
  // Tokens that a kernel may take together, counted from each sequence's start; backward restarts
  // from the states between. Results differ in their last bits alone.
  int64_t chunk = kChunk;
  Sequences seqs;

  int64_t n_heads() const { return A.dim(0); }
  int64_t d_inner() const { return x.dim(1); }
  int64_t head_dim() const { return d_inner() / n_heads(); }
  int64_t d_state() const { return B.dim(1) / n_groups; }
  int64_t group_of(int64_t head) const { return head / (n_heads() / n_groups); }
  bool limits_dt() const { return dt_min > 0 || dt_max < std::numeric_limits<double>::infinity(); }
  Shape point_shape(SsdPoint p) const;
};

// The recurrence of Mamba-2 (Dao and Gu, 2024), for each sequence, head k, channel e of the head
// and state n, h[-1] from the start slot:
//   dt_pre = dt_raw + dt_bias            dt    = softplus(dt_pre), itself above 20, in its limits
//   decay  = exp(dt A)                   write = (dt x) B          (B_bar = dt B; write = B_bar x)
//   h[t]   = decay h[t-1] + write        y     = sum_n C h         (readout_h = h)
//   out    = y + D x
// Within a chunk y is also (C B^T o L) (dt x), where L[i][j] is the product of the decays after j
// up to i: products of matrices. An infinity or NaN in x may so reach earlier tokens of its chunk
// and head, as a product with zero.
struct SsdForward {
  static constexpr Op kOp = Op::ssd_forward;
  SsdInputs in;
  Tensor pool;         // (slots, d_inner, d_state), read and written; or empty
  Tensor checkpoints;  // (ssd_checkpoint_count, d_inner, d_state), assigned for backward; or empty
  Tensor out;          // (tokens, d_inner), assigned
  SsdTaps taps;
};

// Rows of `checkpoints`: sequence s owns the rows from ssd_checkpoint_begin(cu_seqlens[s], s) on,
// one for its start and one after every chunk that is followed by another token.
inline int64_t ssd_checkpoint_begin(const SsdInputs& in, int64_t cu, int64_t s) {
  return cu / in.chunk + s;
}
inline int64_t ssd_checkpoint_count(const SsdInputs& in) {
  return ssd_checkpoint_begin(in, in.seqs.tokens, in.seqs.count());
}

struct SsdBackward {
  static constexpr Op kOp = Op::ssd_backward;
  Tensor dout;  // (tokens, d_inner)
  SsdInputs in;
  Tensor checkpoints;  // as forward left them
  SsdTaps taps;        // forward's edits, and gradients; nothing is watched
  Tensor dx;           // (tokens, d_inner), assigned, rows may be strided; so too
  Tensor ddt_raw;      // (tokens, n_heads)
  Tensor dB;           // (tokens, n_groups d_state)
  Tensor dC;           // (tokens, n_groups d_state)
  Tensor ddt_bias;     // (n_heads), accumulated
  Tensor dA;           // (n_heads), accumulated
  Tensor dD;           // as D, accumulated
  Tensor dpool;        // (slots, d_inner, d_state), see Sequences; or empty: not wanted
};

// The same, token by token, every inner value made: what the kernels above turn to where an edit
// changes the recurrence.
struct SsdForwardByTokens {
  static constexpr Op kOp = Op::ssd_forward_by_tokens;
  SsdForward call;
  struct Edited {
    bool states = false;  // an edit changed a decay, a write or a state
    bool reads = false;   // or what was read of them alone
  };
  Edited* edited;  // assigned where it holds
};
// Only what is watched of the recurrence, once a kernel has run: each chunk that somebody watches
// or edits is walked again from the state it began with, in the heads and channels that it is of.
// So values are told beside the kernel's own, and `edited` says whether an edit changes any.
struct SsdWatchByTokens {
  static constexpr Op kOp = Op::ssd_watch_by_tokens;
  SsdForward call;  // with the checkpoints the kernel left; its pool and out are not used
  SsdForwardByTokens::Edited* edited;  // assigned where it holds
};
struct SsdBackwardByTokens {
  static constexpr Op kOp = Op::ssd_backward_by_tokens;
  SsdBackward call;
};

void ssd_forward(Device& device, const SsdForward& args);
void ssd_backward(Device& device, const SsdBackward& args);

}  // namespace elapse

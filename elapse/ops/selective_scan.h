// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>

#include "elapse/ops/sequences.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Inner values of the selective scan that can be watched and edited, in the order they arise.
// (tokens, d_inner): dt_pre, dt, y, ssm_out, gate. (tokens, d_inner, d_state): the others.
// An edit of `h` is carried into later tokens; one of `readout_h` changes its own token's y only.
enum class ScanPoint : uint8_t {
  dt_pre,
  dt,
  decay,
  B_bar,
  write,
  h,
  readout_h,
  y,
  ssm_out,
  gate,
  count
};
using ScanTaps = std::array<Tap, static_cast<size_t>(ScanPoint::count)>;

inline Tap& tap(ScanTaps& taps, ScanPoint p) { return taps[static_cast<size_t>(p)]; }
inline const Tap& tap(const ScanTaps& taps, ScanPoint p) { return taps[static_cast<size_t>(p)]; }
inline bool is_per_state(ScanPoint p) { return p >= ScanPoint::decay && p <= ScanPoint::readout_h; }
bool any_active_forward(const ScanTaps& taps);
bool any_active_backward(const ScanTaps& taps);

// What forward and backward both read. Rows of (tokens, .) tensors may be strided.
struct ScanInputs {
  Tensor x;        // (tokens, d_inner)
  Tensor dt_raw;   // (tokens, d_inner): step size before bias and softplus
  Tensor dt_bias;  // (d_inner)
  Tensor A;        // (d_inner, d_state), negative
  Tensor B;        // (tokens, d_state)
  Tensor C;        // (tokens, d_state)
  Tensor D;        // (d_inner)
  Tensor z;        // (tokens, d_inner)
  Sequences seqs;
};

// The selective scan with everything around it (Gu and Dao, 2023, Algorithm 2), for each sequence,
// channel e and state n, h[-1] from the start slot:
//   dt_pre = dt_raw + dt_bias            dt    = softplus(dt_pre), itself above 20
//   decay  = exp(dt A)                   write = (dt x) B          (B_bar = dt B; write = B_bar x)
//   h[t]   = decay h[t-1] + write        y     = sum_n C h         (readout_h = h)
//   ssm_out = y + D x                    gate  = silu(z)           out = ssm_out gate
// Where x, dt_raw, B, C, z, out and their gradients are of 16 bits, all else is float32.
struct ScanForward {
  static constexpr Op kOp = Op::selective_scan_forward;
  // Backward restarts from states kept every so many tokens of a sequence, its start included.
  static constexpr int64_t kCheckpointEvery = 16;

  ScanInputs in;
  Tensor pool;         // (slots, d_inner, d_state), read and written; or empty
  Tensor checkpoints;  // (checkpoint_count, d_inner, d_state), assigned for backward; or empty
  Tensor out;          // (tokens, d_inner), assigned
  ScanTaps taps;
};

// Rows of `checkpoints`: sequence s owns the rows from checkpoint_begin(cu_seqlens[s], s) on, one
// for its start and one after every kCheckpointEvery further tokens that are followed by another.
// With cu = cu_seqlens[s] this is an upper bound that needs no prefix sum.
constexpr int64_t checkpoint_begin(int64_t cu, int64_t s) {
  return cu / ScanForward::kCheckpointEvery + s;
}
inline int64_t checkpoint_count(const Sequences& seqs) {
  return checkpoint_begin(seqs.tokens, seqs.count());
}

struct ScanBackward {
  static constexpr Op kOp = Op::selective_scan_backward;
  Tensor dout;  // (tokens, d_inner)
  ScanInputs in;
  Tensor checkpoints;  // as the same device's forward left them: the order of a row's states is its
                       // own
  ScanTaps taps;       // forward's edits, and gradients; nothing is watched
  Tensor dx;           // (tokens, d_inner), assigned, rows may be strided; so too
  Tensor ddt_raw;      // (tokens, d_inner)
  Tensor dB;           // (tokens, d_state)
  Tensor dC;           // (tokens, d_state)
  Tensor dz;           // (tokens, d_inner)
  Tensor ddt_bias;     // (d_inner), accumulated
  Tensor dA;           // (d_inner, d_state), accumulated
  Tensor dD;           // (d_inner), accumulated
  Tensor dpool;        // (slots, d_inner, d_state), see Sequences; or empty: not wanted
};

// The scan's composition needs the bare recurrence h[t] = decay[t] h[t-1] + write[t], from zeros.
struct Recurrence {
  static constexpr Op kOp = Op::recurrence;
  Tensor decay;  // (tokens, d_inner, d_state)
  Tensor write;  // (tokens, d_inner, d_state)
  Sequences seqs;
  Tensor h;  // (tokens, d_inner, d_state), assigned
};

struct RecurrenceBackward {
  static constexpr Op kOp = Op::recurrence_backward;
  Tensor dh;  // (tokens, d_inner, d_state): what reaches h from its readers
  Tensor decay;
  Tensor h;
  Sequences seqs;
  Tensor ddecay;  // (tokens, d_inner, d_state), assigned
  Tensor dwrite;  // (tokens, d_inner, d_state), assigned
};

void selective_scan_forward(Device& device, const ScanForward& args);
void selective_scan_backward(Device& device, const ScanBackward& args);
void recurrence(Device& device, const Recurrence& args);
void recurrence_backward(Device& device, const RecurrenceBackward& args);

}  // namespace elapse

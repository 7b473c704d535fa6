// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"

namespace elapse {

// Which rows stand side by side, and where those of a sequence's past are: in a queue that is a
// ring, the row of position p (tokens before it in all calls) at p modulo the ring's rows. A token
// is written over the oldest, and nothing else moves: the work of a token does not grow with the
// dilation.
struct Delays {
  int64_t width = 2;     // rows side by side, at least 2
  int64_t dilation = 1;  // tokens between them

  int64_t queue_rows() const { return (width - 1) * dilation; }
  // Of block k: the last is the token's own row.
  int64_t of_block(int64_t k) const { return (width - 1 - k) * dilation; }
  int64_t queue_row(int64_t position) const {
    const int64_t rows = queue_rows(), r = position % rows;
    return r < 0 ? r + rows : r;
  }
};

// What a dilated causal convolution multiplies (van den Oord et al., 2016, "WaveNet"; the queues:
// Paine et al., 2016), per sequence, with x[t] for t < 0 from the queue of its start slot:
//   out[t] = (x[t - (width - 1) dilation], ..., x[t - dilation], x[t])
struct DelayedForward {
  static constexpr Op kOp = Op::delayed_forward;
  Tensor x;  // (tokens, d_model), rows may be strided
  Delays delays;
  Sequences seqs;  // with the positions that the queues stand at
  Tensor pool;     // (slots, queue_rows, d_model), read and written; or empty
  Tensor out;      // (tokens, width * d_model), assigned
};

struct DelayedBackward {
  static constexpr Op kOp = Op::delayed_backward;
  Tensor dout;  // (tokens, width * d_model)
  Delays delays;
  Sequences seqs;
  Tensor dx;     // (tokens, d_model), assigned; rows may be strided
  Tensor dpool;  // (slots, queue_rows, d_model), see Sequences; or empty: not wanted
};

void delayed_forward(Device& device, const DelayedForward& args);
void delayed_backward(Device& device, const DelayedBackward& args);

}  // namespace elapse

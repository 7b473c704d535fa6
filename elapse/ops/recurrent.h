// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>

#include "elapse/ops/sequences.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Recurrent cells in the form that PyTorch gives them: Elman's (1990) with tanh, the long
// short-term memory of Hochreiter and Schmidhuber (1997) with forget gates, the gated recurrent
// unit of Cho et al. (2014) whose reset gate scales the recurrent share of n.
enum class Cell : uint8_t { rnn, lstm, gru };

// rnn: h; lstm: i, f, g, o; gru: r, z, n
constexpr int64_t gate_count(Cell cell) {
  return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1;
}
// Rows of d_inner that a sequence remembers: h, and lstm's c.
constexpr int64_t state_rows(Cell cell) { return cell == Cell::lstm ? 2 : 1; }
// Rows of d_inner that backward needs of a token: the gates, lstm's c, gru's share of n in m.
constexpr int64_t inner_rows(Cell cell) { return gate_count(cell) + (cell == Cell::rnn ? 0 : 1); }

// Values inside, (tokens, d_inner) each: the gates as they stand in the weight, after their
// nonlinearity (none of rnn); lstm's c; h, which the next token meets as it is after its edits.
struct RecurrentTaps {
  static constexpr int64_t kMostGates = 4;
  std::array<Tap, kMostGates> gates;
  Tap c;
  Tap h;
};

// Per sequence, from the h (and c) of its start slot, with m = W h[t-1] + bias beside the input's
// share a of the gates:
//   rnn   h = tanh(a + m)
//   lstm  i, f, o = sigmoid(a + m), g = tanh(a + m);  c = f c[t-1] + i g;  h = o tanh(c)
//   gru   r, z = sigmoid(a + m), n = tanh(a_n + r m_n);  h = (1 - z) n + z h[t-1]
struct RecurrentForward {
  static constexpr Op kOp = Op::recurrent_forward;
  Cell cell = Cell::rnn;
  Tensor a;       // (tokens, gate_count * d_inner), rows may be strided
  Tensor weight;  // (gate_count * d_inner, d_inner)
  Tensor bias;    // (gate_count * d_inner)
  Sequences seqs;
  Tensor pool;    // (slots, state_rows, d_inner), read and written; or empty
  Tensor before;  // (tokens, state_rows * d_inner), assigned: what each token meets; or empty
  Tensor inner;   // (tokens, inner_rows * d_inner), assigned: for backward; or empty
  Tensor h;       // (tokens, d_inner), assigned
  RecurrentTaps taps;
};

struct RecurrentBackward {
  static constexpr Op kOp = Op::recurrent_backward;
  Cell cell = Cell::rnn;
  Tensor dh;      // (tokens, d_inner)
  Tensor weight;  // forward's, with its seqs, before, inner and taps
  Sequences seqs;
  Tensor before;
  Tensor inner;
  RecurrentTaps taps;
  Tensor da;  // (tokens, gate_count * d_inner), assigned; rows may be strided
  Tensor dm;  // (tokens, gate_count * d_inner), assigned: of m, whose sums give dweight and dbias
  Tensor dpool;  // (slots, state_rows, d_inner), see Sequences; or empty: not wanted
};

void recurrent_forward(Device& device, const RecurrentForward& args);
void recurrent_backward(Device& device, const RecurrentBackward& args);

}  // namespace elapse

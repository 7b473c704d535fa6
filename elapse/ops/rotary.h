// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"

namespace elapse {

// Rotary positions (Su et al., 2021): channels i and i + head_dim / 2 of each head are turned by
// the angle position * frequencies[i], as Llama and GPT-NeoX pair them. With `growth` they are also
// scaled by exp(position * growth[i]), which is xPos (Sun et al., 2022) where queries and keys have
// opposite signs:
//   out_i           = exp(position growth_i) (x_i cos - x_{i + head_dim / 2} sin)
//   out_{i + half}  = exp(position growth_i) (x_i sin + x_{i + head_dim / 2} cos)
// Its own backward, with `frequencies` negated.
struct Rotary {
  static constexpr Op kOp = Op::rotary;
  Tensor x;              // (tokens, n_heads * head_dim), rows may be strided
  int64_t head_dim = 0;  // twice as many as there are frequencies
  std::vector<double> frequencies;
  std::vector<double> growth = {};  // empty: zeros
  Sequences seqs;
  std::vector<int64_t> first_positions = {};  // by sequence, of its first token; empty: zeros
  Tensor out;                                 // as x, assigned; rows may be strided

  int64_t first_position(int64_t sequence) const {
    return first_positions.empty() ? 0 : first_positions[static_cast<size_t>(sequence)];
  }
};
// Throws Error for positions so large that exp(position * growth) leaves float32's range.
void rotary(Device& device, const Rotary& args);

}  // namespace elapse

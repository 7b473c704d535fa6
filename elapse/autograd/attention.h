// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/autograd/tape.h"
#include "elapse/ops/attention.h"
#include "elapse/ops/rotary.h"

// The operations of elapse/ops/attention.h and rotary.h on Vars, and those on the pages in which
// keys and values are remembered: (2, positions, width), keys and then values. A page is written in
// place, row after row, as a pool of states is.
namespace elapse {

struct PastPage {
  Var rows;            // (2, positions, n_kv_heads * head_dim)
  int64_t begin, end;  // of the positions
};

// Positions [begin, end) of a page.
KeyValueRows rows_of_page(const Tensor& page, int64_t begin, int64_t end);

struct AttentionNumbers {
  int64_t n_heads = 1;
  int64_t n_kv_heads = 1;
  AttentionPattern pattern = {};
};
// `past`: by sequence what stands before its first token, in order; or empty.
Var attention(Tape& tape, const Var& q, const Var& k, const Var& v, const AttentionNumbers& numbers,
              const Sequences& seqs, const std::vector<std::vector<PastPage>>& past = {});

struct RotaryNumbers {
  int64_t head_dim = 0;
  std::vector<double> frequencies, growth;
};
Var rotary(Tape& tape, const Var& x, const RotaryNumbers& numbers, const Sequences& seqs,
           const std::vector<int64_t>& first_positions = {});

// Rows [begin, end) of k and v (tokens, width) become positions of the page, from `position` on.
// Backward, these take what stands in the page's gradient there, and clear it.
void write_to_page(Tape& tape, const Var& k, const Var& v, int64_t begin, int64_t end,
                   const Var& page, int64_t position);
// The first `positions` of a page become those of another, likewise.
void copy_page(Tape& tape, const Var& from, int64_t positions, const Var& to);

}  // namespace elapse

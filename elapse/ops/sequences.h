// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "elapse/ops/device.h"

namespace elapse {

// Many sequences of different lengths packed in one token axis, and for each the slot of a pool of
// states it starts from and the one it ends in.
//
// A sequence of length 0 hands its state on unchanged. Several sequences may start from one slot
// (a fork). The slots sequences end in differ from each other, and the slot one sequence ends in is
// not the start of another: starts are read and ends written in any order.
//
// Backward, the pool's gradient travels the other way in place: a sequence takes what stands in
// its end slot, clears it, and adds the gradient of its start to its start slot.
struct Sequences {
  static constexpr int64_t kNoSlot = -1;  // start: zeros; end: dropped

  Tensor cu_seqlens;                           // (n_seqs + 1) i64: 0, then the end of each sequence
  Tensor start_slots;                          // (n_seqs) i64
  Tensor end_slots;                            // (n_seqs) i64
  std::vector<int64_t> lengths, starts, ends;  // the same on the host, (n_seqs) each
  std::vector<int64_t> positions;  // (n_seqs): tokens taken before this call; empty: none by any
  int64_t tokens = 0;
  int64_t max_len = 0;
  int64_t max_slot = -1;  // highest slot named

  int64_t count() const { return static_cast<int64_t>(lengths.size()); }
  int64_t position(int64_t sequence) const {
    return positions.empty() ? 0 : positions[static_cast<size_t>(sequence)];
  }
};

// `starts` and `ends` may be empty: every sequence from zeros, every end dropped. Throws Error on
// a negative length or slots that break the rules above.
Sequences make_sequences(Device& device, const std::vector<int64_t>& lengths,
                         const std::vector<int64_t>& starts = {},
                         const std::vector<int64_t>& ends = {});

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <vector>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/ops/ssd.h"

namespace elapse::cpu {

// Chunks have a multiple of so many rows in scratch memory, so that few sizes of products occur;
// rows without a token are zeros.
inline constexpr int64_t kSsdRows = 16;

struct SsdChunk {
  int64_t token, len;  // packed tokens [token, token + len)
  int64_t row, rows;   // in scratch memory
};

struct SsdSequence {
  int64_t index;
  int64_t first_chunk, chunks;  // of the plan's; a single has none
  int64_t row;                  // of its first token
};

// Some heads of one group, which share their products.
struct SsdHeads {
  int64_t group;
  int64_t begin, end;
};

// How the SSD's work is cut, by shapes alone: each sequence into chunks, each group into blocks of
// heads.
struct SsdPlan {
  // Where they are not apart, sequences of one token have a chunk as others do.
  SsdPlan(const SsdInputs& in, bool singles_apart) : singles_apart_(singles_apart) {
    for (int64_t s = 0, token = 0; s < in.seqs.count(); ++s) {
      const int64_t len = in.seqs.lengths[static_cast<size_t>(s)];
      add_sequence(in, s, token, len);
      token += len;
    }
    add_heads(in);
  }

  std::vector<SsdChunk> chunks;
  std::vector<SsdSequence> sequences;
  std::vector<SsdSequence> singles;  // of one token, if apart
  std::vector<int64_t> empties;
  std::vector<SsdHeads> heads;
  int64_t rows = 0;
  int64_t most_columns = 0;  // channels of the widest block of heads

 private:
  void add_sequence(const SsdInputs& in, int64_t s, int64_t token, int64_t len) {
    if (len == 0) return empties.push_back(s);
    if (len == 1 && singles_apart_) return singles.push_back({s, 0, 0, rows++});
    sequences.push_back({s, std::ssize(chunks), divide_up(len, in.chunk), rows});
    for (int64_t t = 0; t < len; t += in.chunk) {
      const int64_t n = std::min(in.chunk, len - t);
      chunks.push_back({token + t, n, rows, divide_up(n, kSsdRows) * kSsdRows});
      rows += chunks.back().rows;
    }
  }

  void add_heads(const SsdInputs& in) {
    constexpr int64_t kWantedColumns = 256;
    const int64_t per_group = in.n_heads() / in.n_groups;
    const int64_t step = std::max<int64_t>(1, kWantedColumns / in.head_dim());
    for (int64_t k = 0; k < in.n_heads(); k += per_group) {
      for (int64_t i = 0; i < per_group; i += step) {
        const int64_t end = std::min(per_group, i + step);
        heads.push_back({in.group_of(k), k + i, k + end});
        most_columns = std::max(most_columns, (end - i) * in.head_dim());
      }
    }
  }

  bool singles_apart_;
};

// One thread for work too small to share.
inline int ssd_threads(const Device& device, const SsdInputs& in) {
  constexpr int64_t kLeastShared = 1 << 17;  // updates of a state: some ten microseconds
  return in.seqs.tokens * in.d_inner() * in.d_state() < kLeastShared ? 1 : device.threads();
}

}  // namespace elapse::cpu

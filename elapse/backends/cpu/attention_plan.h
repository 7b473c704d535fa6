// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/ops/attention.h"

namespace elapse::cpu {

// Streams have a multiple of so many rows in scratch memory, and blocks of queries and keys in
// products, so that few sizes of products occur; rows without a position are zeros.
inline constexpr int64_t kAttentionRows = 16;
inline constexpr int64_t kQueries = 64;  // of a block
inline constexpr int64_t kKeys = 128;

// The positions of a sequence that see each other: every dilation-th. Among themselves they are an
// attention with a window of streams' positions. What no query sees is left out.
struct AttentionStream {
  int64_t sequence;
  int64_t past, tokens;  // positions before the first query, and queries
  int64_t first;         // the first one's position in the sequence, its past included
  int64_t first_token;   // of the first query, packed; the others follow dilation apart
  int64_t row, rows;     // in scratch memory
};

// Some queries of a stream, for one head.
struct AttentionBlock {
  int64_t stream;
  int64_t head;
  int64_t begin, count;  // queries
};

// The keys that a block's queries see, in rows of the stream: whole multiples of kAttentionRows.
struct KeyRange {
  int64_t begin, end;
};

// One head of a stream: (rows, head_dim) each.
struct StreamOfHead {
  const float *keys, *values;
  float *dkeys, *dvalues;  // accumulated
};

// How the work is cut, by shapes alone, and the keys and values of all streams by head.
class AttentionPlan {
 public:
  // Where they are not wanted, sequences of one token have no stream.
  AttentionPlan(const AttentionInputs& in, bool wants_singles);

  const std::vector<AttentionStream>& streams() const { return streams_; }
  const AttentionStream& stream(int64_t i) const { return streams_[static_cast<size_t>(i)]; }
  std::vector<AttentionBlock> blocks() const;  // of all heads
  int64_t rows() const { return rows_; }
  int64_t window() const { return window_; }  // in positions of a stream; 0: all
  KeyRange keys_of(const AttentionBlock& block) const;

  // (n_kv_heads, rows, head_dim)
  Tensor keys(Device& device) const { return packed(device, in_.k, &KeyValueRows::k); }
  Tensor values(Device& device) const { return packed(device, in_.v, &KeyValueRows::v); }

  // Where the row of a stream's i-th position stands in (tokens, .), or -1: it is of the past.
  int64_t token(const AttentionStream& stream, int64_t i) const {
    return i < stream.past ? -1 : stream.first_token + (i - stream.past) * in_.pattern.dilation;
  }
  // The row of the i-th position, of `own` (tokens, .) or the sequence's runs; null where a run has
  // none.
  std::vector<float*> rows_of(const AttentionStream& stream, const Tensor& own,
                              const PastRows& past, Tensor KeyValueRows::*part) const;

 private:
  void add_sequence(int64_t sequence, int64_t token);
  Tensor packed(Device& device, const Tensor& own, Tensor KeyValueRows::*part) const;

  const AttentionInputs& in_;
  int64_t window_;
  std::vector<AttentionStream> streams_;
  int64_t rows_ = 0;
};

// A sequence of one token: no products of matrices (attention_step.cc).
void attention_of_singles(Device& device, const AttentionForward& args);

}  // namespace elapse::cpu

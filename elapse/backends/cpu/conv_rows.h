// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/ops/sequences.h"

namespace elapse::cpu {

// Tokens [begin, end) of the packed axis, all of one sequence.
struct Span {
  int64_t sequence;
  int64_t begin;
  int64_t end;
};

inline constexpr int64_t kLongestSpan = 128;  // tokens

// The sequences cut into spans, and the spans gathered into blocks of about as many tokens each.
inline std::vector<std::vector<Span>> cut_into_blocks(const Sequences& seqs, int64_t block_tokens) {
  std::vector<std::vector<Span>> blocks;
  const int64_t* cu = seqs.cu_seqlens.data<int64_t>();
  int64_t room = 0;
  for (int64_t s = 0; s < seqs.count(); ++s) {
    for (int64_t begin = cu[s]; begin < cu[s + 1]; begin += kLongestSpan) {
      const int64_t end = std::min(cu[s + 1], begin + kLongestSpan);
      if (room <= 0) {
        blocks.emplace_back();
        room = block_tokens;
      }
      blocks.back().push_back({s, begin, end});
      room -= end - begin;
    }
  }
  return blocks;
}

// Rows of a packed tensor by sequence and token. The tokens before a sequence are those of its
// start window, or zeros; those after its end are zeros.
class SequenceRows {
 public:
  // `zeros`: (d_inner). `starts` holds windows of `window` rows, one a sequence; null: zeros.
  SequenceRows(const Tensor& tensor, const Sequences& seqs, int64_t window,
               std::vector<const float*> starts, const Tensor& zeros)
      : tensor_(tensor),
        cu_(seqs.cu_seqlens.data<int64_t>()),
        window_(window),
        starts_(std::move(starts)),
        zeros_(zeros.data<float>()) {}

  // Token `t` of the packed axis, at least the sequence's first less `window`.
  const float* operator()(int64_t sequence, int64_t t) const {
    if (t >= cu_[sequence + 1]) return zeros_;
    if (t >= cu_[sequence]) return row(tensor_, t);
    const float* start = starts_[static_cast<size_t>(sequence)];
    if (start == nullptr) return zeros_;
    return start + (t - cu_[sequence] + window_) * tensor_.dim(1);
  }

  // Tokens [begin, end), one after another.
  std::vector<const float*> range(int64_t sequence, int64_t begin, int64_t end) const {
    std::vector<const float*> rows;
    rows.reserve(static_cast<size_t>(end - begin));
    for (int64_t t = begin; t < end; ++t) rows.push_back((*this)(sequence, t));
    return rows;
  }

  int64_t first_token(int64_t sequence) const { return cu_[sequence]; }
  int64_t end_token(int64_t sequence) const { return cu_[sequence + 1]; }
  const float* zeros() const { return zeros_; }

 private:
  const Tensor& tensor_;
  const int64_t* cu_;
  int64_t window_;
  std::vector<const float*> starts_;
  const float* zeros_;
};

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cpu/attention_plan.h"

#include <algorithm>

#include "elapse/backends/cpu/blocks.h"

namespace elapse::cpu {

AttentionPlan::AttentionPlan(const AttentionInputs& in, bool wants_singles)
    : in_(in), window_(divide_up(in.pattern.window, in.pattern.dilation)) {
  int64_t token = 0;
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const int64_t length = in.seqs.lengths[static_cast<size_t>(s)];
    if (length > 1 || (length == 1 && wants_singles)) add_sequence(s, token);
    token += length;
  }
}

void AttentionPlan::add_sequence(int64_t sequence, int64_t token) {
  const int64_t dilation = in_.pattern.dilation, before = in_.past_length(sequence);
  const int64_t end = before + in_.seqs.lengths[static_cast<size_t>(sequence)];
  const auto positions = [&](int64_t until, int64_t first) {
    return until <= first ? 0 : divide_up(until - first, dilation);
  };
  for (int64_t first = 0; first < std::min(dilation, end); ++first) {
    const int64_t past = positions(before, first), tokens = positions(end, first) - past;
    if (tokens == 0) continue;
    const int64_t seen = window_ == 0 ? past : std::min(past, window_ - 1);
    const int64_t rows = divide_up(seen + tokens, kAttentionRows) * kAttentionRows;
    streams_.push_back({.sequence = sequence,
                        .past = seen,
                        .tokens = tokens,
                        .first = first + (past - seen) * dilation,
                        .first_token = token + first + past * dilation - before,
                        .row = rows_,
                        .rows = rows});
    rows_ += rows;
  }
}

std::vector<AttentionBlock> AttentionPlan::blocks() const {
  std::vector<AttentionBlock> blocks;
  for (int64_t i = 0; i < std::ssize(streams_); ++i) {
    for (int64_t head = 0; head < in_.n_heads; ++head) {
      for (int64_t begin = 0; begin < stream(i).tokens; begin += kQueries) {
        blocks.push_back({i, head, begin, std::min(kQueries, stream(i).tokens - begin)});
      }
    }
  }
  return blocks;
}

KeyRange AttentionPlan::keys_of(const AttentionBlock& block) const {
  const int64_t first = stream(block.stream).past + block.begin;
  const int64_t lowest = window_ == 0 ? 0 : std::max<int64_t>(0, first - window_ + 1);
  return {lowest / kAttentionRows * kAttentionRows,
          divide_up(first + block.count, kAttentionRows) * kAttentionRows};
}

std::vector<float*> AttentionPlan::rows_of(const AttentionStream& stream, const Tensor& own,
                                           const PastRows& past, Tensor KeyValueRows::*part) const {
  const int64_t dilation = in_.pattern.dilation;
  std::vector<float*> rows;
  if (!in_.past.empty()) {
    const auto s = static_cast<size_t>(stream.sequence);
    int64_t start = 0;  // of the run
    for (size_t run = 0; run < in_.past[s].size(); ++run) {
      const Tensor t = past.empty() ? Tensor() : past[s][run].*part;
      const int64_t end = start + in_.past[s][run].k.dim(0);
      while (true) {
        const int64_t position = stream.first + std::ssize(rows) * dilation;
        if (position >= end) break;
        rows.push_back(t ? row(t, position - start) : nullptr);
      }
      start = end;
    }
  }
  for (int64_t i = 0; i < stream.tokens; ++i) {
    rows.push_back(row(own, token(stream, stream.past + i)));
  }
  return rows;
}

Tensor AttentionPlan::packed(Device& device, const Tensor& own, Tensor KeyValueRows::*part) const {
  const int64_t head_dim = in_.head_dim(), heads = in_.n_kv_heads;
  const Tensor packed = device.empty(DType::f32, {heads, rows_, head_dim});
  for (const AttentionStream& s : streams_) {
    const std::vector<float*> rows = rows_of(s, own, in_.past, part);
    for_each_block(device, s.rows, rows_per_block(heads * head_dim),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       for (int64_t h = 0; h < heads; ++h) {
                         float* to = packed.data<float>() + (h * rows_ + s.row + i) * head_dim;
                         if (i >= std::ssize(rows)) std::fill_n(to, head_dim, 0.0f);
                         else
                           std::copy_n(rows[static_cast<size_t>(i)] + h * head_dim, head_dim, to);
                       }
                     }
                   });
  }
  return packed;
}

}  // namespace elapse::cpu

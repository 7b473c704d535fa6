// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace elapse {

// Half-open; all by default.
struct IndexRange {
  static constexpr int64_t kToEnd = std::numeric_limits<int64_t>::max();
  int64_t begin = 0, end = kToEnd;

  bool is_all() const { return begin == 0 && end == kToEnd; }
  bool operator==(const IndexRange&) const = default;
};

// A part of a point's value; everything by default. Kernels are told of it: what is not selected
// costs nothing.
struct Selection {
  std::vector<int64_t> sequences = {};  // by their number in the batch, each once; empty: all
  // Places of tokens in their sequences, counted from the first the sequence's state took, so that
  // they mean the same in training, prefill and decoding; each once; empty: all of a pass. A
  // position that a pass does not come by selects nothing in it.
  std::vector<int64_t> positions = {};
  IndexRange channels = {};  // of the value's second axis
  IndexRange states = {};    // of its third

  bool is_all() const {
    return sequences.empty() && positions.empty() && channels.is_all() && states.is_all();
  }
  std::string str() const;  // "positions 3,4 channels 0:8"
  bool operator==(const Selection&) const = default;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace elapse {

// Byte-pair encoding (Sennrich, Haddow and Birch, 2016): of all neighbours in a row of tokens that
// a merge joins, those of the lowest rank are joined first, the leftmost of them before the others.
class Bpe {
 public:
  struct Merge {
    int32_t left, right, result;
  };
  // A neighbouring pair's merge.
  struct Found {
    static constexpr uint32_t kNone = UINT32_MAX;
    uint32_t rank = kNone;  // none: the pair is not joined
    int32_t result = 0;
  };

  // A merge's place is its rank. Of two of the same pair, the last counts.
  explicit Bpe(const std::vector<Merge>& merges);

  // Joins what can be joined, in time of n log n for long rows. `scratch` is memory to reuse.
  void merge(std::vector<int32_t>& tokens, std::vector<Found>& scratch) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    Found found;
  };
  static constexpr uint64_t kEmpty = UINT64_MAX;

  size_t slot_of(uint64_t pair) const;  // where it is, or could be
  Found find(int32_t left, int32_t right) const;
  void merge_short(std::vector<int32_t>& tokens, std::vector<Found>& pairs) const;
  void merge_long(std::vector<int32_t>& tokens) const;

  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  int shift_ = 0;            // of the hash, to an index
};

}  // namespace elapse

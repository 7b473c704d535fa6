// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>

namespace elapse {
namespace {

// Up to here, looking through all pairs for the lowest rank is faster than a heap of them.
constexpr size_t kShort = 64;

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A row whose tokens can be joined at any place: a joined token stands where its left part stood.
class LinkedRow {
 public:
  static constexpr size_t kEnd = SIZE_MAX;

  explicit LinkedRow(std::vector<int32_t>& tokens) : tokens_(tokens) {
    next_.reserve(tokens.size());
    previous_.reserve(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      next_.push_back(i + 1 < tokens.size() ? i + 1 : kEnd);
      previous_.push_back(i > 0 ? i - 1 : kEnd);
    }
  }

  int32_t token(size_t i) const { return tokens_[i]; }
  size_t next(size_t i) const { return next_[i]; }
  size_t previous(size_t i) const { return previous_[i]; }
  bool holds(size_t i, int32_t left, int32_t right) const {
    return tokens_[i] == left && next_[i] != kEnd && tokens_[next_[i]] == right;
  }
  void join(size_t i, int32_t result) {
    const size_t gone = next_[i];
    tokens_[i] = result;
    tokens_[gone] = kGone;
    next_[i] = next_[gone];
    if (next_[i] != kEnd) previous_[next_[i]] = i;
  }
  // Takes out what was joined to others; the links are then of no use.
  void close_up() { std::erase(tokens_, kGone); }

 private:
  static constexpr int32_t kGone = -1;

  std::vector<int32_t>& tokens_;
  std::vector<size_t> next_, previous_;
};

struct Candidate {
  uint32_t rank;
  size_t at;
  int32_t left, right, result;

  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

}  // namespace

Bpe::Bpe(const std::vector<Merge>& merges) {
  const size_t size = std::bit_ceil(2 * merges.size() + 2);
  shift_ = 64 - std::countr_zero(size);
  slots_.resize(size);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& m = merges[rank];
    const uint64_t pair = pair_of(m.left, m.right);
    slots_[slot_of(pair)] = {pair, {static_cast<uint32_t>(rank), m.result}};
  }
}

size_t Bpe::slot_of(uint64_t pair) const {
  size_t i = (pair * 0x9E3779B97F4A7C15u) >> shift_;  // Fibonacci hashing: the golden ratio
  while (slots_[i].pair != pair && slots_[i].pair != kEmpty) i = (i + 1) & (slots_.size() - 1);
  return i;
}

Bpe::Found Bpe::find(int32_t left, int32_t right) const {
  return slots_[slot_of(pair_of(left, right))].found;
}

void Bpe::merge(std::vector<int32_t>& tokens, std::vector<Found>& scratch) const {
  if (tokens.size() < 2) return;
  if (tokens.size() <= kShort) {
    merge_short(tokens, scratch);
  } else {
    merge_long(tokens);
  }
}

void Bpe::merge_short(std::vector<int32_t>& tokens, std::vector<Found>& pairs) const {
  pairs.clear();
  for (size_t i = 0; i + 1 < tokens.size(); ++i) pairs.push_back(find(tokens[i], tokens[i + 1]));
  while (!pairs.empty()) {
    const auto lower = [](const Found& a, const Found& b) { return a.rank < b.rank; };
    const auto best = std::min_element(pairs.begin(), pairs.end(), lower);
    if (best->rank == Found::kNone) return;
    const auto i = static_cast<size_t>(best - pairs.begin());
    tokens[i] = best->result;
    tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(i) + 1);
    pairs.erase(best);
    if (i > 0) pairs[i - 1] = find(tokens[i - 1], tokens[i]);
    if (i < pairs.size()) pairs[i] = find(tokens[i], tokens[i + 1]);
  }
}

// Candidates stay in the heap when a neighbour changes, and no longer hold when they come up.
void Bpe::merge_long(std::vector<int32_t>& tokens) const {
  LinkedRow row(tokens);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](size_t at) {
    if (at == LinkedRow::kEnd || row.next(at) == LinkedRow::kEnd) return;
    const int32_t left = row.token(at), right = row.token(row.next(at));
    const Found found = find(left, right);
    if (found.rank != Found::kNone) {
      candidates.push({found.rank, at, left, right, found.result});
    }
  };
  for (size_t i = 0; i + 1 < tokens.size(); ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    if (!row.holds(best.at, best.left, best.right)) continue;
    row.join(best.at, best.result);
    consider(row.previous(best.at));
    consider(best.at);
  }
  row.close_up();
}

}  // namespace elapse

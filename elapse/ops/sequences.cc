// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/sequences.h"

#include <algorithm>
#include <map>

namespace elapse {
namespace {

void check_slots(const std::vector<int64_t>& starts, const std::vector<int64_t>& ends) {
  std::map<int64_t, size_t> sequence_ending_in;
  for (size_t s = 0; s < ends.size(); ++s) {
    if (ends[s] == Sequences::kNoSlot) continue;
    ELAPSE_CHECK(ends[s] >= 0, "sequence {} ends in slot {}", s, ends[s]);
    const auto [other, fresh] = sequence_ending_in.emplace(ends[s], s);
    ELAPSE_CHECK(fresh, "sequences {} and {} both end in slot {}", other->second, s, ends[s]);
  }
  for (size_t s = 0; s < starts.size(); ++s) {
    ELAPSE_CHECK(starts[s] >= Sequences::kNoSlot, "sequence {} starts from slot {}", s, starts[s]);
    const auto ending = sequence_ending_in.find(starts[s]);
    ELAPSE_CHECK(ending == sequence_ending_in.end() || ending->second == s,
                 "sequence {} starts from slot {}, in which sequence {} ends", s, starts[s],
                 ending->second);
  }
}

}  // namespace

Sequences make_sequences(Device& device, const std::vector<int64_t>& lengths,
                         const std::vector<int64_t>& starts, const std::vector<int64_t>& ends) {
  const auto count = static_cast<int64_t>(lengths.size());
  const std::vector<int64_t> none(lengths.size(), Sequences::kNoSlot);
  ELAPSE_CHECK(starts.empty() || starts.size() == lengths.size(),
               "{} sequences, but {} start slots", count, starts.size());
  ELAPSE_CHECK(ends.empty() || ends.size() == lengths.size(), "{} sequences, but {} end slots",
               count, ends.size());
  check_slots(starts, ends);

  Sequences seqs;
  seqs.lengths = lengths;
  seqs.starts = starts.empty() ? none : starts;
  seqs.ends = ends.empty() ? none : ends;
  std::vector<int64_t> cu = {0};
  for (int64_t length : lengths) {
    ELAPSE_CHECK(length >= 0, "a sequence of length {}", length);
    cu.push_back(cu.back() + length);
    seqs.max_len = std::max(seqs.max_len, length);
  }
  for (const auto* slots : {&starts, &ends}) {
    for (int64_t slot : *slots) seqs.max_slot = std::max(seqs.max_slot, slot);
  }
  seqs.tokens = cu.back();
  seqs.cu_seqlens = device.upload(cu, {count + 1});
  seqs.start_slots = device.upload(seqs.starts, {count});
  seqs.end_slots = device.upload(seqs.ends, {count});
  return seqs;
}

}  // namespace elapse

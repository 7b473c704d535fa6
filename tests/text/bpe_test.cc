// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace elapse {
namespace {

using Row = std::vector<int32_t>;

// By looking through all merges, in their order, for the first that applies.
Row slowly_merged(Row row, const std::vector<Bpe::Merge>& merges) {
  const auto apply_first = [&] {
    for (const Bpe::Merge& m : merges) {
      for (size_t i = 0; i + 1 < row.size(); ++i) {
        if (row[i] != m.left || row[i + 1] != m.right) continue;
        row[i] = m.result;
        row.erase(row.begin() + static_cast<ptrdiff_t>(i) + 1);
        return true;
      }
    }
    return false;
  };
  while (apply_first()) {
  }
  return row;
}

Row merged(const Bpe& bpe, Row row) {
  std::vector<Bpe::Found> scratch;
  bpe.merge(row, scratch);
  return row;
}

std::vector<Bpe::Merge> random_merges(std::mt19937& random, int32_t first, int count) {
  std::vector<Bpe::Merge> merges;
  for (int32_t made = first; made < first + count; ++made) {
    const auto any = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(made)); };
    merges.push_back({any(), any(), made});
  }
  std::shuffle(merges.begin(), merges.end(), random);
  // A pair given twice has its last rank.
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto same = [&](const auto& m) {
      return m.left == merges[i].left && m.right == merges[i].right;
    };
    while (std::any_of(merges.begin() + static_cast<ptrdiff_t>(i) + 1, merges.end(), same)) {
      merges.erase(merges.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  return merges;
}

TEST(Bpe, RowsOfEveryLengthAreMergedInOrder) {
  std::mt19937 random(1);
  for (int round = 0; round < 40; ++round) {
    const auto merges = random_merges(random, 3, 20);
    const Bpe bpe(merges);
    for (const size_t length : {0, 1, 2, 3, 10, 63, 64, 65, 66, 200}) {
      Row row(length);
      for (int32_t& token : row) token = static_cast<int32_t>(random() % 3);
      ASSERT_EQ(merged(bpe, row), slowly_merged(row, merges)) << "length " << length;
    }
  }
}

TEST(Bpe, OfOverlappingPairsTheLeftmostIsJoined) {
  const Bpe bpe({{0, 0, 1}, {1, 1, 2}});
  EXPECT_EQ(merged(bpe, Row(7, 0)), (Row{2, 1, 0}));
  EXPECT_EQ(merged(bpe, Row(99, 0)).size(), 26u);
}

TEST(Bpe, OfOnePairTheLastMergeCounts) {
  const Bpe bpe({{0, 1, 5}, {1, 2, 6}, {0, 1, 7}});
  EXPECT_EQ(merged(bpe, {0, 1, 2}), (Row{0, 6}));
  EXPECT_EQ(merged(bpe, {0, 1}), (Row{7}));
}

TEST(Bpe, WithoutMergesNothingIsJoined) { EXPECT_EQ(merged(Bpe({}), {1, 2, 3}), (Row{1, 2, 3})); }

}  // namespace
}  // namespace elapse

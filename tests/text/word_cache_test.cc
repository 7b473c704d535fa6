// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/word_cache.h"

#include <gtest/gtest.h>

#include <string>

namespace elapse {
namespace {

using Tokens = std::vector<int32_t>;

TEST(WordCache, TellsPiecesOfEveryLengthApart) {
  WordCache cache;
  std::vector<std::string> pieces;
  for (size_t length = 1; length <= WordCache::kMaxPiece; ++length) {
    const std::string zeros(length, '\0');
    pieces.push_back(zeros);
    for (size_t i = 0; i < length; ++i) {
      std::string piece = zeros;
      piece[i] = 'x';
      pieces.push_back(piece);
    }
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    ASSERT_EQ(cache.find(pieces[i]), nullptr) << i;
    cache.insert(Tokens{static_cast<int32_t>(i), 7});
    const auto* found = cache.find(pieces[i]);
    ASSERT_NE(found, nullptr);
    ASSERT_EQ(Tokens(found->span().begin(), found->span().end()),
              (Tokens{static_cast<int32_t>(i), 7}));
  }
}

TEST(WordCache, WhatItStillKnowsIsRight) {
  WordCache cache;
  int known = 0;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 100'000; ++i) {
      const std::string piece = "piece" + std::to_string(i % 50'000);
      if (const auto* found = cache.find(piece)) {
        ASSERT_EQ(found->span()[0], i % 50'000);
        ++known;
      } else {
        cache.insert(Tokens{i % 50'000});
      }
    }
  }
  EXPECT_GT(known, 0);
}

TEST(WordCache, LeavesOutWhatDoesNotFit) {
  WordCache cache;
  EXPECT_EQ(cache.find("a"), nullptr);
  cache.insert(Tokens(WordCache::kMaxTokens + 1));
  EXPECT_EQ(cache.find("a"), nullptr);
  cache.insert(Tokens(WordCache::kMaxTokens, 3));
  EXPECT_EQ(cache.find("a")->span().size(), WordCache::kMaxTokens);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace elapse {

// Remembers the tokens of short pieces, most of which come again and again. Of constant size: a
// piece has two places it can be in, and takes that of the one longer unused.
class WordCache {
 public:
  static constexpr size_t kMaxPiece = 31;  // bytes
  static constexpr size_t kMaxTokens = 7;

  // One piece, and all of it in one cache line.
  struct alignas(64) Entry {
    std::array<uint64_t, 4> key{};  // the piece, zeros, and in the last byte its length
    std::array<int32_t, kMaxTokens> tokens{};
    uint32_t count = 0;

    std::span<const int32_t> span() const { return {tokens.data(), count}; }
  };

  // The entry of `piece` (1 to kMaxPiece bytes), or nullptr; the place it would go to is then where
  // insert() puts it.
  const Entry* find(std::string_view piece) {
    key_ = key_of(piece);
    Entry* pair = &entries_[2 * (hash(key_) >> (64 - kPairBits))];
    if (pair[0].key == key_) return &pair[0];
    place_ = &pair[0];
    if (pair[1].key != key_) return nullptr;
    std::swap(pair[0], pair[1]);
    return &pair[0];
  }

  // Remembers the tokens of the piece that find() was last asked for in vain.
  void insert(std::span<const int32_t> tokens) {
    if (tokens.size() > kMaxTokens) return;
    place_[1] = place_[0];
    place_->key = key_;
    place_->count = static_cast<uint32_t>(tokens.size());
    std::memcpy(place_->tokens.data(), tokens.data(), tokens.size_bytes());
  }

 private:
  static constexpr int kPairBits = 14;
  using Key = std::array<uint64_t, 4>;

  static Key key_of(std::string_view piece) {
    Key key{};
    std::memcpy(key.data(), piece.data(), piece.size());
    key[3] |= static_cast<uint64_t>(piece.size()) << 56;
    return key;
  }
  static uint64_t hash(const Key& key) {
    uint64_t h = 0;
    for (const uint64_t word : key) {
      h = (h ^ word) * 0x9E3779B97F4A7C15u;
      h ^= h >> 32;
    }
    return h * 0x9E3779B97F4A7C15u;
  }

  std::vector<Entry> entries_ = std::vector<Entry>(size_t{2} << kPairBits);  // 2 MiB
  Key key_{};
  Entry* place_ = nullptr;
};

}  // namespace elapse

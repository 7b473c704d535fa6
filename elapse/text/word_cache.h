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
    if (equal(pair[0].key, key_)) return &pair[0];
    place_ = &pair[0];
    if (!equal(pair[1].key, key_)) return nullptr;
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

  // The calls of memcpy and memcmp for sizes not known would take longer than all the rest.
  static bool equal(const Key& a, const Key& b) {
    return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0;
  }
  static Key key_of(std::string_view piece) {
    Key key{};
    const size_t size = piece.size(), whole = size / 8, rest = size % 8;
    for (size_t i = 0; i < whole; ++i) key[i] = load<uint64_t>(piece.data() + 8 * i);
    if (rest > 0) {
      const char* end = piece.data() + size;
      key[whole] = size > 8 ? load<uint64_t>(end - 8) >> (64 - 8 * rest) : load_few(piece);
    }
    key[3] |= static_cast<uint64_t>(size) << 56;
    return key;
  }
  // Of 1 to 7 bytes: two loads that may overlap.
  static uint64_t load_few(std::string_view bytes) {
    const size_t n = bytes.size();
    const char* const begin = bytes.data();
    if (n == 1) return static_cast<unsigned char>(*begin);
    if (n < 4) return load<uint16_t>(begin) | load<uint16_t>(begin + n - 2) << (8 * n - 16);
    return load<uint32_t>(begin) | load<uint32_t>(begin + n - 4) << (8 * n - 32);
  }
  template <class Word>
  static uint64_t load(const char* from) {
    Word word;
    std::memcpy(&word, from, sizeof(word));
    return word;
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

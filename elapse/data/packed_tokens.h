// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace elapse {

// The tokens of a long text, each in the one, two or four bytes that the vocabulary's numbers need.
class PackedTokens {
 public:
  explicit PackedTokens(std::string bytes) : bytes_(std::move(bytes)) {}  // a token each
  // Of tokens in [0, vocab_size), which is at most 2^32.
  PackedTokens(std::span<const int64_t> tokens, int64_t vocab_size);

  int64_t size() const { return static_cast<int64_t>(bytes_.size() / width_); }
  int64_t operator[](int64_t i) const;
  std::string_view bytes() const { return bytes_; }  // equal for equal tokens of one vocabulary

 private:
  size_t width_ = 1;  // bytes of a token, the least significant first
  std::string bytes_;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/packed_tokens.h"

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr int kByteBits = 8;

size_t width_for(int64_t vocab_size) {
  if (vocab_size <= int64_t{1} << 8) return 1;
  return vocab_size <= int64_t{1} << 16 ? 2 : 4;
}

}  // namespace

PackedTokens::PackedTokens(std::span<const int64_t> tokens, int64_t vocab_size)
    : width_(width_for(vocab_size)) {
  bytes_.reserve(tokens.size() * width_);
  for (const int64_t token : tokens) {
    ELAPSE_CHECK(token >= 0 && token < vocab_size, "expected tokens from 0 to {}, found {}",
                 vocab_size - 1, token);
    for (size_t b = 0; b < width_; ++b) bytes_ += static_cast<char>(token >> kByteBits * b);
  }
}

int64_t PackedTokens::operator[](int64_t i) const {
  int64_t token = 0;
  for (size_t b = width_; b-- > 0;) {
    const char byte = bytes_[static_cast<size_t>(i) * width_ + b];
    token = token << kByteBits | static_cast<unsigned char>(byte);
  }
  return token;
}

}  // namespace elapse

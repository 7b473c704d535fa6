// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// Turns text into the numbers a model reads, and back.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int64_t vocab_size() const = 0;
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  // The bytes one token stands for, not always whole characters. Throws Error for a number outside
  // [0, vocab_size()).
  virtual std::string decode(int64_t token) const = 0;
};

}  // namespace elapse

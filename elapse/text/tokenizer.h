// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// Turns text into the numbers a model reads, and back. Several threads may use one at a time.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Every token's number lies in [0, vocab_size()); not every number need have a token.
  virtual int64_t vocab_size() const = 0;
  // The tokens of the text alone: without prefix().
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  // The bytes one token stands for, not always whole characters; none for a number without a
  // token. Throws Error for a number outside [0, vocab_size()).
  virtual std::string decode(int64_t token) const = 0;

  // The number of a token that is matched in the text as it is written, such as <|endoftext|>.
  virtual std::optional<int64_t> added_token(std::string_view) const { return std::nullopt; }
  // What its authors put before a text, such as a begin-of-text token.
  virtual std::vector<int64_t> prefix() const { return {}; }
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/byte_tokenizer.h"

#include "elapse/core/error.h"

namespace elapse {

std::vector<int64_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> tokens;
  tokens.reserve(text.size());
  for (char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

std::string ByteTokenizer::decode(int64_t token) const {
  ELAPSE_CHECK(token >= 0 && token < kVocabSize,
               "byte tokenizer: expected a token below {}, found {}", kVocabSize, token);
  return std::string(1, static_cast<char>(token));
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/text/tokenizer.h"

namespace elapse {

// A token a byte: any bytes are text, UTF-8 or not, and come back as they were.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr int64_t kVocabSize = 256;

  int64_t vocab_size() const override { return kVocabSize; }
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode(int64_t token) const override;
};

}  // namespace elapse

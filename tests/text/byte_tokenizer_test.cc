// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/byte_tokenizer.h"

#include <gtest/gtest.h>

#include "elapse/core/error.h"

namespace elapse {
namespace {

TEST(ByteTokenizer, EveryByteComesBack) {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  const ByteTokenizer tokenizer;
  const std::vector<int64_t> tokens = tokenizer.encode(text);
  std::string back;
  for (int64_t i = 0; i < 256; ++i) {
    ASSERT_EQ(tokens.at(static_cast<size_t>(i)), i);
    back += tokenizer.decode(i);
  }
  EXPECT_EQ(back, text);
  EXPECT_EQ(tokenizer.vocab_size(), 256);
  EXPECT_TRUE(tokenizer.encode("").empty());
}

TEST(ByteTokenizer, RefusesWhatIsNoByte) {
  for (int64_t token : {int64_t{-1}, int64_t{256}, INT64_MAX}) {
    EXPECT_THROW(ByteTokenizer().decode(token), Error) << token;
  }
}

}  // namespace
}  // namespace elapse

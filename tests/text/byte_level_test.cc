// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/byte_level.h"

#include <gtest/gtest.h>

#include "elapse/io/utf8.h"

namespace elapse {
namespace {

TEST(ByteLevel, EveryByteComesBack) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  const std::string text = byte_level_text(bytes);
  EXPECT_TRUE(is_utf8(text));
  EXPECT_EQ(byte_level_bytes(text), bytes);
}

TEST(ByteLevel, IsWrittenAsGpt2Does) {
  EXPECT_EQ(byte_level_text("Hi there\n"), "Hi\u0120there\u010a");
  EXPECT_EQ(byte_level_text("\xC3\xA9"), "\u00c3\u00a9");
  EXPECT_EQ(byte_level_text("\xAD"), "\u0143");  // the last of the 68
}

TEST(ByteLevel, OtherCharactersStandForNoByte) {
  for (const std::string text : {" ", "a\nb", "\u00ad", "\u0144", "\u20ac", "\U0001F600", "\x7f"}) {
    EXPECT_EQ(byte_level_bytes(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace elapse {
namespace {

std::string encoded(uint32_t code, size_t length) {
  std::string text(length, '\0');
  for (size_t i = length; i-- > 1; code >>= 6) text[i] = static_cast<char>(0x80 | (code & 0x3f));
  static constexpr unsigned kLead[] = {0, 0, 0xc0, 0xe0, 0xf0};
  text[0] = static_cast<char>(kLead[length] | code);
  return text;
}

size_t shortest_length(uint32_t code) {
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

TEST(Utf8, takes_every_code_point_in_its_shortest_form_and_in_no_other) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    for (size_t length = shortest_length(code); length <= 4; ++length) {
      const size_t expected = !surrogate && length == shortest_length(code) ? length : 0;
      ASSERT_EQ(utf8_character(encoded(code, length)), expected) << code << " in " << length;
    }
  }
}

TEST(Utf8, refuses_code_points_past_the_last) {
  EXPECT_TRUE(is_utf8(encoded(0x10ffff, 4)));
  EXPECT_FALSE(is_utf8(encoded(0x110000, 4)));
  EXPECT_FALSE(is_utf8("\xf5\x80\x80\x80"));
  EXPECT_FALSE(is_utf8("\xff"));
}

TEST(Utf8, refuses_characters_cut_short) {
  const std::string text = "a\xe2\x82\xac\xf0\x9f\x98\x80";
  for (size_t n = 0; n <= text.size(); ++n) {
    EXPECT_EQ(is_utf8(text.substr(0, n)), n == 0 || n == 1 || n == 4 || n == 8) << n;
  }
  EXPECT_FALSE(is_utf8("\xe2\x82z"));
}

}  // namespace
}  // namespace elapse

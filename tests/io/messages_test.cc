// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/messages.h"

#include <gtest/gtest.h>

namespace elapse {
namespace {

TEST(Quote, escapes_what_would_garble_a_message) {
  EXPECT_EQ(quote("a.b"), "\"a.b\"");
  EXPECT_EQ(quote("\xc3\xa9"), "\"\xc3\xa9\"");
  EXPECT_EQ(quote("\n\xff"), "\"\\x0a\\xff\"");
}

TEST(Quote, is_cut_between_characters) {
  EXPECT_EQ(quote(std::string(100, 'a')), '"' + std::string(100, 'a') + '"');
  EXPECT_EQ(quote(std::string(101, 'a')), '"' + std::string(100, 'a') + "...\"");
  EXPECT_EQ(quote(std::string(99, 'a') + "\xc3\xa9zz"),
            '"' + std::string(99, 'a') + "\xc3\xa9...\"");
}

TEST(NearestNames, come_nearest_first) {
  EXPECT_EQ(nearest_names("abcd", {"zzzz", "abxx", "abcx", "bcd", "wwwwwwww"}),
            "\"abcx\", \"bcd\", \"abxx\"");
  EXPECT_EQ(nearest_names("a", {"b"}), "\"b\"");
  EXPECT_EQ(nearest_names("a", {}), "");
}

}  // namespace
}  // namespace elapse

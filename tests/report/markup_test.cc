// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/markup.h"

#include <gtest/gtest.h>

using namespace std::string_view_literals;

namespace elapse {
namespace {

constexpr std::string_view kBroken = "\xEF\xBF\xBD";  // U+FFFD

bool every_byte_is_replaced(std::string_view text) {
  std::string expected;
  for (size_t i = 0; i < text.size(); ++i) expected += kBroken;
  return escape_markup(text) == expected;
}

TEST(Markup, EscapesWhatMarkupGivesMeaning) {
  EXPECT_EQ(escape_markup("a<b & \"c\" > 'd'"), "a&lt;b &amp; &quot;c&quot; &gt; &#39;d&#39;");
  EXPECT_EQ(escape_markup("&amp;"), "&amp;amp;");
  EXPECT_EQ(escape_markup("läuft ✓ 長い 🙂"), "läuft ✓ 長い 🙂");
  EXPECT_EQ(escape_markup(""), "");
}

TEST(Markup, KeepsLinesAndReplacesWhatXmlForbids) {
  EXPECT_EQ(escape_markup("a\n\tb"), "a\n\tb");
  for (std::string_view forbidden : {"\0"sv, "\x1B"sv, "\x7F"sv, "\xEF\xBF\xBE"sv, "\xC2\x85"sv}) {
    EXPECT_EQ(escape_markup(forbidden), kBroken);
  }
}

TEST(Markup, ReplacesEveryByteOfBrokenUtf8) {
  EXPECT_EQ(escape_markup("\xFF"), kBroken);
  EXPECT_EQ(escape_markup("a\xC3"), "a" + std::string(kBroken));     // cut off
  EXPECT_EQ(escape_markup("\xC3<"), std::string(kBroken) + "&lt;");  // no continuation
  EXPECT_TRUE(every_byte_is_replaced("\xC0\x80"));                   // overlong
  EXPECT_TRUE(every_byte_is_replaced("\xE0\x80\x80"));
  EXPECT_TRUE(every_byte_is_replaced("\xED\xA0\x80"));      // surrogate
  EXPECT_TRUE(every_byte_is_replaced("\xF4\x90\x80\x80"));  // beyond U+10FFFF
}

TEST(Markup, MeasuresTerminalColumns) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("✓✗–−2²⁰"), 7);
  EXPECT_EQ(display_width("é"), 1);
  EXPECT_EQ(display_width("e\u0301"), 1);
  EXPECT_EQ(display_width("長い"), 4);
  EXPECT_EQ(display_width("🙂"), 2);
  EXPECT_EQ(display_width("\xFF"), 1);
}

TEST(Markup, PrintableTextStaysOnOneLine) {
  EXPECT_EQ(printable("a\nb\x1B[31m\tc"), "a b [31m c");
  EXPECT_EQ(printable("<✓>"), "<✓>");
}

}  // namespace
}  // namespace elapse

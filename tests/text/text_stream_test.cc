// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/text_stream.h"

#include <gtest/gtest.h>

#include "elapse/core/error.h"
#include "elapse/io/utf8.h"

namespace elapse {
namespace {

struct Shown {
  std::vector<std::string> pieces;
  std::string text;
  bool stopped = false;
};

// Pushes `text` in pieces of `size` bytes, as far as the stream wants them.
Shown show(const std::string& text, const std::vector<std::string>& stops, size_t size) {
  TextStream stream(stops);
  Shown shown;
  for (size_t at = 0; at < text.size() && !stream.stopped(); at += size) {
    shown.pieces.push_back(stream.push(text.substr(at, size)));
  }
  shown.pieces.push_back(stream.finish());
  for (const std::string& piece : shown.pieces) shown.text += piece;
  shown.stopped = stream.stopped();
  return shown;
}

void expect_shown(const std::string& text, const std::vector<std::string>& stops,
                  const std::string& expected, bool stopped) {
  for (size_t size = 1; size <= text.size() + 1; ++size) {
    const Shown shown = show(text, stops, size);
    EXPECT_EQ(shown.text, expected) << "in pieces of " << size;
    EXPECT_EQ(shown.stopped, stopped) << "in pieces of " << size;
  }
}

TEST(TextStream, EndsBeforeTheStopString) {
  expect_shown("one. two. three", {". t"}, "one", true);
  expect_shown("one. two. three", {"three"}, "one. two. ", true);
  expect_shown("stop", {"stop"}, "", true);
}

TEST(TextStream, WhatOnlyBeginsLikeAStopIsShownInTheEnd) {
  expect_shown("ababab", {"ababc"}, "ababab", false);
  expect_shown("the end is ne", {"near"}, "the end is ne", false);
  expect_shown("", {"x"}, "", false);
}

TEST(TextStream, FindsAStopAfterAFalseStart) {
  expect_shown("aab", {"ab"}, "a", true);
  expect_shown("abababac", {"ababac"}, "ab", true);
  expect_shown("\n\n\nUser: hi", {"\n\nUser:"}, "\n", true);
}

TEST(TextStream, TheStopEndingFirstWins) {
  expect_shown("abcdef", {"abcde", "bc"}, "a", true);
  expect_shown("abcdef", {"c", "abc", "bc"}, "", true);  // the longest of those ending together
}

TEST(TextStream, HoldsBackNoMoreThanItMust) {
  TextStream stream({"END", "EX"});
  EXPECT_EQ(stream.push("a"), "a");
  EXPECT_EQ(stream.push("E"), "");
  EXPECT_EQ(stream.push("N"), "");
  EXPECT_EQ(stream.push("E"), "EN");
  EXPECT_EQ(stream.push("y"), "Ey");
  EXPECT_EQ(stream.push("END, and more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("nothing after it"), "");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, ShowsWholeCharactersAsSoonAsTheyAre) {
  const std::string text = "a\u00e9\u20ac\U0001F600z";  // 1, 2, 3, 4 and 1 bytes
  for (size_t size = 1; size <= 5; ++size) {
    const Shown shown = show(text, {}, size);
    EXPECT_EQ(shown.text, text);
    for (const std::string& piece : shown.pieces) EXPECT_TRUE(is_utf8(piece)) << size;
  }
  const std::vector<std::string> by_byte = {"a", "", "\u00e9", "",           "",  "\u20ac",
                                            "",  "", "",       "\U0001F600", "z", ""};
  EXPECT_EQ(show(text, {}, 1).pieces, by_byte);
}

TEST(TextStream, AStopOfSeveralBytesACharacter) {
  expect_shown("\u00e9t\u00e9 fini", {"\u00e9 "}, "\u00e9t", true);
  expect_shown("\u00e8\u00e9", {"\u00e9\u00e9"}, "\u00e8\u00e9", false);
}

TEST(TextStream, BytesThatAreNoUtf8PassUnchanged) {
  const std::string text = "\x80\xff\xc3(\xe2\x82\xc0\xf0\x9f\x98";
  expect_shown(text, {}, text, false);
  const std::vector<std::string> by_byte = {
      "\x80", "\xff", "", "\xc3(", "", "", "\xe2\x82\xc0", "", "", "", "\xf0\x9f\x98"};
  EXPECT_EQ(show(text, {}, 1).pieces, by_byte);
}

TEST(TextStream, RefusesAnEmptyStopString) { EXPECT_THROW(TextStream({"a", ""}), Error); }

}  // namespace
}  // namespace elapse

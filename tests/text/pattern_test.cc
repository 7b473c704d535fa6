// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/pattern.h"

#include <gtest/gtest.h>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(const std::string& regex, const std::string& text) {
  Pieces pieces;
  Pattern(regex, "test").split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

TEST(Pattern, CutsOutWhatMatches) {
  EXPECT_EQ(split("[0-9]+", "ab12c3"), (Pieces{"ab", "12", "c", "3"}));
  EXPECT_EQ(split("[0-9]", "12"), (Pieces{"1", "2"}));
  EXPECT_EQ(split("x", "abc"), (Pieces{"abc"}));
  EXPECT_EQ(split("x", ""), (Pieces{}));
}

TEST(Pattern, AnEmptyMatchIsACut) {
  EXPECT_EQ(split("x*", "ax\u00e9"), (Pieces{"a", "x", "\u00e9"}));
  EXPECT_EQ(split("(?=b)", "abab"), (Pieces{"a", "ba", "b"}));
}

TEST(Pattern, ClassesAreOniguruma) {
  EXPECT_EQ(split(R"(\s)", "a\u180e\u0085b"), (Pieces{"a\u180e", "\u0085", "b"}));
  EXPECT_EQ(split(R"([\s\d]+)", "a \u0661\u3000b"), (Pieces{"a", " \u0661\u3000", "b"}));
  EXPECT_EQ(split(R"(\S+)", "a b"), (Pieces{"a", " ", "b"}));
  EXPECT_EQ(split(R"(\w+)", "\u0930\u0947_1-"), (Pieces{"\u0930\u0947_1", "-"}));
  EXPECT_EQ(split(R"(\W+)", "a--b"), (Pieces{"a", "--", "b"}));
}

TEST(Pattern, RefusesWhatTheTwoLanguagesMayTakeDifferently) {
  for (const std::string regex :
       {"^a",        "a$",     R"(\h)",   R"(\R)",   R"(\v)", R"(\1)",   "(?<name>a)",
        "[a[b]]",    "[a&&b]", "[]a]",    R"([\S])", "a{,3}", "a{1,3}+", R"(\p{Han})",
        R"(\p{^L})", R"(\pL)", R"(\p{L)", "(?m)a",   "(?#x)", "(*UCP)a", "\\"}) {
    expect_error([&] { split(regex, "text"); }, "test: expected a regular expression");
  }
}

TEST(Pattern, RefusesWhatIsNoExpression) {
  for (const std::string regex :
       {"(", ")", "[a", "a**{", "a{3,1}", R"([z-a])", "(?<=a+)b", "\xFF"}) {
    expect_error([&] { split(regex, "text"); }, "test: expected");
  }
  expect_error([&] { split(std::string(100'000, 'a'), "text"); }, "at most 65536 bytes");
}

TEST(Pattern, EndlessMatchingEnds) {
  const std::string text = std::string(100, 'a') + "bc";
  expect_error([&] { split("(?:a+)+c", text); }, "test: cannot split a text of 102 bytes");
}

}  // namespace
}  // namespace elapse

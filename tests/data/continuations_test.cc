// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/continuations.h"

#include <gtest/gtest.h>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

TEST(Continuations, AreObjectsALine) {
  const auto found = parse_continuations(
      "{\"context\": \"to be\\nor \", \"continuation\": \"not\"}\r\n"
      "  \n"
      "{\"domain\": [1], \"continuation\": \" \\u00e9\", \"context\": \"caf\\u00e9\"}",
      "pairs");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].context, "to be\nor ");
  EXPECT_EQ(found[0].continuation, "not");
  EXPECT_EQ(found[1].context, "caf\xc3\xa9");
  EXPECT_EQ(found[1].continuation, " \xc3\xa9");
}

TEST(Continuations, AreReadUpToALimit) {
  const std::string good = "{\"context\": \"a\", \"continuation\": \"b\"}\n";
  EXPECT_EQ(parse_continuations(good + "\n" + good + "no object", "pairs", 2).size(), 2U);
  EXPECT_EQ(parse_continuations(good, "pairs", 2).size(), 1U);
}

TEST(Continuations, NameTheLineAndTheFieldThatIsWrong) {
  const std::string good = "{\"context\": \"a\", \"continuation\": \"b\"}\n";
  const auto refused = [&](const std::string& line, const std::string& part) {
    expect_error([&] { parse_continuations(good + "\n" + line + "\n" + good, "pairs"); },
                 "pairs: line 3: " + part);
  };
  refused("{\"context\": \"a\"", "not JSON");
  refused("[]", "expected an object");
  refused("{\"context\": \"a\"}", "expected a field \"continuation\", found none");
  refused("{\"continuation\": \"a\"}", "expected a field \"context\", found none");
  refused("{\"context\": 3, \"continuation\": \"b\"}", "field \"context\": expected text, found 3");
  refused("{\"context\": \"a\", \"continuation\": \"\"}",
          "field \"continuation\": expected words, found \"\"");
  refused("{\"context\": \" \\n\", \"continuation\": \"b\"}", "field \"context\": expected words");
  refused("{\"context\": \"a\", \"context\": \"a\"}", "the key \"context\" occurs twice");
}

TEST(Continuations, AreMoreThanNone) {
  for (const char* empty : {"", "\n", " \r\n\n"}) {
    expect_error([&] { parse_continuations(empty, "pairs"); },
                 "pairs: expected a JSON object a line, found an empty file");
  }
}

}  // namespace
}  // namespace elapse

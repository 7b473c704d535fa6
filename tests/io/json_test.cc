// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/json.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "elapse/core/random.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

Json parsed(std::string_view text) { return Json::parse(text, "config.json"); }

TEST(Json, reads_every_kind_of_field) {
  const Json json = parsed(R"({"n": 24, "x": 0.5, "on": true, "name": "a\u00e9\n", "list": [1, "b"],
                               "inner": {"k": -1}, "none": null})");
  EXPECT_EQ(json.integer("n"), 24);
  EXPECT_EQ(json.positive_integer("n"), 24);
  EXPECT_EQ(json.number("n"), 24.0);
  EXPECT_EQ(json.number("x"), 0.5);
  EXPECT_TRUE(json.boolean("on"));
  EXPECT_EQ(json.text("name"), "a\xc3\xa9\n");
  EXPECT_EQ(json.at("list").items().size(), 2u);
  EXPECT_EQ(json.at("list").items()[1].text(), "b");
  EXPECT_EQ(json.at("inner").integer("k"), -1);
  EXPECT_EQ(json.keys(),
            (std::vector<std::string>{"n", "x", "on", "name", "list", "inner", "none"}));
}

TEST(Json, falls_back_where_a_field_is_absent_or_null) {
  const Json json = parsed(R"({"null": null, "n": 3, "x": 2, "on": false, "name": "a"})");
  EXPECT_EQ(json.integer("none", 7), 7);
  EXPECT_EQ(json.integer("null", 7), 7);
  EXPECT_EQ(json.integer("n", 7), 3);
  EXPECT_EQ(json.positive_integer("none", 7), 7);
  EXPECT_EQ(json.number("x", 7), 2);
  EXPECT_EQ(json.number("none", 7), 7);
  EXPECT_FALSE(json.boolean("on", true));
  EXPECT_TRUE(json.boolean("none", true));
  EXPECT_EQ(json.text("name", "b"), "a");
  EXPECT_EQ(json.text("none", "b"), "b");
  EXPECT_FALSE(json.has("null"));
  EXPECT_TRUE(json.has("n"));
}

TEST(Json, views_keep_the_text_alive) {
  const Json inner = parsed(R"({"a": [{"b": "deep"}]})").at("a").items()[0];
  EXPECT_EQ(inner.text("b"), "deep");
  EXPECT_EQ(inner.where(), "config.json: field \"a[0]\"");
}

TEST(Json, names_the_field_at_fault) {
  const Json json = parsed(R"({"d_model": "abc", "ssm_cfg": {"sizes": [1, [2, -3]]}, "x": 1.5})");
  expect_error([&] { json.positive_integer("d_model"); },
               "config.json: field \"d_model\": expected a positive integer, found \"abc\"");
  const Json sizes = json.at("ssm_cfg").at("sizes");
  expect_error([&] { sizes.items()[1].items()[1].positive_integer(); },
               "config.json: field \"ssm_cfg.sizes[1][1]\": expected a positive integer, found -3");
  expect_error([&] { sizes.items()[1].number(); }, "expected a number, found an array");
  expect_error([&] { json.integer("ssm_cfg"); }, "expected an integer, found an object");
  expect_error([&] { json.integer("x"); }, "expected an integer, found 1.5");
  expect_error([&] { json.boolean("x"); }, "expected true or false, found 1.5");
  expect_error([&] { json.text("x"); }, "expected text, found 1.5");
  expect_error([&] { json.integer("n"); }, "config.json: expected a field \"n\", found none");
  expect_error([&] { sizes.at("n"); }, "expected an object, found an array");
  expect_error([&] { json.items(); }, "config.json: expected an array, found an object");
  expect_error([&] { json.integer("x", 3); }, "expected an integer, found 1.5");
}

TEST(Json, integers_are_exact_or_errors) {
  const Json json = parsed(R"([9223372036854775807, -9223372036854775808, 9223372036854775808,
                               1e3, 24.0, 0])");
  const auto items = json.items();
  EXPECT_EQ(items[0].integer(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(items[1].integer(), std::numeric_limits<int64_t>::min());
  for (int i = 2; i < 5; ++i) expect_error([&] { items[i].integer(); }, "expected an integer");
  expect_error([&] { items[5].positive_integer(); }, "expected a positive integer, found 0");
}

TEST(Json, reads_the_bare_words_of_published_configurations) {
  const auto items = parsed("[0.0, Infinity, -Infinity, NaN]").items();
  EXPECT_EQ(items[1].number(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(items[2].number(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(items[3].number()));
}

TEST(Json, reads_doubles_exactly) {
  EXPECT_EQ(parsed("0e54").number(), 0);
  EXPECT_EQ(parsed("5e-324").number(), std::numeric_limits<double>::denorm_min());
  EXPECT_TRUE(std::signbit(parsed("-0.0").number()));
  expect_error([] { parsed("1e-999"); }, "a number that fits no double: \"1e-999\"");
  Random random(1);
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t high = random.next_u32();
    const auto value = std::bit_cast<double>(high << 32 | random.next_u32());
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(parsed(fmt::format("{}", value)).number(), value) << fmt::format("{}", value);
    ASSERT_EQ(parsed(fmt::format("{:.25e}", value)).number(), value) << fmt::format("{}", value);
  }
}

TEST(Json, refuses_what_is_not_json) {
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\":}", "{\"a\" 1}", "01", "1 2", "nul", "'a'",
                           "\"a", "\"\x01\"", "\"\\x\"", "[1e999]", "{1: 2}", "\xef\xbb\xbf{}"}) {
    expect_error([&] { parsed(text); }, "config.json: not JSON");
  }
  expect_error([&] { parsed(std::string_view("{}\0{}", 5)); }, "a NUL at byte 2");
  expect_error([&] { parsed(std::string_view("\"\0\"", 3)); }, "a NUL at byte 1");
}

TEST(Json, reads_no_further_than_the_text) {
  const std::string text = R"({"a": [1.5e3, true, "xé\n"], "b": null})";
  for (size_t n = 0; n < text.size(); ++n) {
    const std::vector<char> exact(text.begin(), text.begin() + static_cast<ptrdiff_t>(n));
    EXPECT_THROW(parsed({exact.data(), n}), Error) << n;
  }
}

TEST(Json, refuses_strings_that_are_not_utf8) {
  for (const char* text : {"\"\xff\"", "{\"\xc0\x80\": 1}", "\"\xed\xa0\x80\"", "\"\\ud800\"",
                           "\"\\udc00\"", "\"\\ud800\\u0041\""}) {
    EXPECT_THROW(parsed(text), Error) << text;
  }
  expect_error([&] { parsed("[\"a\xff\"]"); }, "a string that is not UTF-8: \"a\\xff\"");
  EXPECT_EQ(parsed("\"\\ud83d\\ude00\"").text(), "\xf0\x9f\x98\x80");
}

TEST(Json, refuses_keys_twice_wherever_they_are) {
  expect_error([] { parsed(R"({"a": 1, "b": 2, "a": 3})"); },
               "config.json: the key \"a\" occurs twice");
  expect_error([] { parsed(R"([{"x": {"a": 1, "\u0061": 3}}])"); },
               "config.json: field \"[0].x\": the key \"a\" occurs twice");
}

TEST(Json, limits_nesting) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(parsed(nested(Json::kMaxDepth)).is_array());
  expect_error([&] { parsed(nested(Json::kMaxDepth + 1)); }, "nested more than 64 deep");
  expect_error([&] { parsed(std::string(10'000'000, '[')); }, "nested more than 64 deep");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  expect_error([&] { parsed(objects); }, "nested more than 64 deep");
  EXPECT_EQ(parsed("[[], [], [[]]]").items().size(), 3u);
}

}  // namespace
}  // namespace elapse

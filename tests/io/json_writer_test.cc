// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/json_writer.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "elapse/core/random.h"
#include "elapse/io/json.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

void write_sample(JsonWriter& json) {
  json.begin_object().field("z", 24).field("a", 0.1).field("on", true).field("name", "x");
  json.key("inner").begin_object().end_object();
  json.key("list").begin_array().value(-1).null().begin_object().field("k", "v").end_object();
  json.end_array().field("sizes", std::vector<int64_t>{1, 2}).end_object();
}

TEST(JsonWriter, writes_pretty_text_in_the_order_given) {
  JsonWriter json;
  write_sample(json);
  EXPECT_EQ(json.text(), R"({
  "z": 24,
  "a": 0.1,
  "on": true,
  "name": "x",
  "inner": {},
  "list": [-1, null, {
      "k": "v"
    }],
  "sizes": [1, 2]
}
)");
}

TEST(JsonWriter, writes_one_line) {
  JsonWriter json(JsonWriter::Style::one_line);
  write_sample(json);
  EXPECT_EQ(json.text(), R"({"z": 24, "a": 0.1, "on": true, "name": "x", "inner": {}, )"
                         R"("list": [-1, null, {"k": "v"}], "sizes": [1, 2]})");
}

std::string written(auto value) {
  return JsonWriter(JsonWriter::Style::one_line).value(value).text();
}

TEST(JsonWriter, writes_numbers_that_read_back_the_same) {
  EXPECT_EQ(written(0.1f), "0.1");
  EXPECT_EQ(written(1.0), "1");
  EXPECT_EQ(written(-0.0), "-0.0");
  EXPECT_EQ(written(1e-5), "1e-05");
  EXPECT_EQ(written(std::numeric_limits<uint64_t>::max()), "18446744073709551615");
  EXPECT_EQ(written('a'), "97");
  EXPECT_EQ(written(std::numeric_limits<double>::infinity()), "null");
  EXPECT_EQ(written(std::numeric_limits<float>::quiet_NaN()), "null");
  Random random(2);
  for (int i = 0; i < 10'000; ++i) {
    const auto value = std::bit_cast<float>(random.next_u32());
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(static_cast<float>(Json::parse(written(value), "").number()), value);
  }
}

TEST(JsonWriter, escapes_text_so_that_it_reads_back) {
  std::string text = "\"\\/ \xc3\xa9";
  for (char c = 0; c < 0x20; ++c) text += c;
  EXPECT_EQ(Json::parse(written(text), "").text(), text);
  EXPECT_EQ(written("a\"\\\n\x01"), R"("a\"\\\n\u0001")");
}

TEST(JsonWriter, refuses_text_that_is_not_utf8) {
  expect_error([] { written("a\xff"); }, "not UTF-8 as JSON: \"a\\xff\"");
  JsonWriter json;
  json.begin_object();
  EXPECT_THROW(json.key("\xff"), Error);
}

}  // namespace
}  // namespace elapse

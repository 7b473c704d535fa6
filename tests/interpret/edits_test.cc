// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/edits.h"

#include <gtest/gtest.h>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

TEST(Edits, AreWhatTheFileSays) {
  const std::vector<EditSpec> edits = parse_edits(R"([
    {"point": "layers.*.mixer.out", "op": "mean", "positions": ["S2", -1, 0]},
    {"point": "h", "op": "add", "value": [[1, 2], [3, 4], [5, 6]], "channels": [0, 3],
     "states": [2, 4], "prompts": [1, 0]},
    {"point": "x", "op": "swap-from-cache", "cache": "other"},
    {"point": "x", "op": "resample", "seed": 7},
    {"point": "x", "op": "project-out", "value": [1, 2]},
    {"point": "x", "op": "scale", "value": 2},
    {"point": "x", "op": "zero"}
  ])",
                                                  "edits");
  ASSERT_EQ(edits.size(), 7u);
  EXPECT_EQ(edits[0].point, "layers.*.mixer.out");
  EXPECT_EQ(edits[0].op, EditSpec::Op::mean);
  EXPECT_EQ(edits[0].positions, (std::vector<EditSpec::Place>{"S2", int64_t{-1}, int64_t{0}}));
  EXPECT_EQ(edits[1].prompts, (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(edits[1].channels, (IndexRange{0, 3}));
  EXPECT_EQ(edits[1].states, (IndexRange{2, 4}));
  EXPECT_EQ(edits[1].value, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(edits[1].value_shape, (Shape{1, 3, 2}));
  EXPECT_EQ(edits[2].cache, "other");
  EXPECT_EQ(edits[3].seed, 7u);
  EXPECT_EQ(edits[4].value_shape, (Shape{1, 2}));
  EXPECT_EQ(edits[5].value_shape, (Shape{1}));
  EXPECT_EQ(name_of(edits[4].op), "project-out");
  EXPECT_TRUE(parse_edits("[]", "edits").empty());
}

TEST(Edits, FaultsNameTheField) {
  const auto fault = [](const std::string& fields, const std::string& part) {
    expect_error([&] { parse_edits("[{\"point\": \"x\", " + fields + "}]", "edits"); }, part);
  };
  expect_error([] { parse_edits("{}", "edits"); }, "edits: expected an array");
  expect_error([] { parse_edits("[3]", "edits"); }, "edits: field \"[0]\": expected an object");
  fault("\"op\": \"means\"",
        "field \"[0].op\": expected an operation, found \"means\"; near it: \"mean\"");
  fault("\"op\": \"zero\", \"value\": 1", "the operation \"zero\" has no field \"value\"");
  fault("\"op\": \"zero\", \"position\": [1]", "no field \"position\"; near it: \"positions\"");
  fault("\"op\": \"set\"", "expected a field \"value\"");
  fault("\"op\": \"set\", \"value\": []", "field \"[0].value\": expected numbers, found none");
  fault("\"op\": \"set\", \"value\": [[]]", "expected 1 numbers");
  fault("\"op\": \"set\", \"value\": [[1], [2, 3]]",
        "field \"[0].value[1]\": expected 1 numbers, as in the rows before, found 2");
  fault("\"op\": \"set\", \"value\": [[1], 2]", "field \"[0].value[1]\": expected an array");
  fault("\"op\": \"set\", \"value\": \"much\"", "expected a number");
  fault("\"op\": \"zero\", \"channels\": [3]", "expected the first and the one after the last");
  fault("\"op\": \"zero\", \"channels\": [3, 3]", "to be beyond 3, found 3");
  fault("\"op\": \"zero\", \"states\": [-1, 3]", "expected a whole number, found -1");
  fault("\"op\": \"zero\", \"prompts\": [1, 1]", "expected each prompt once, found 1 twice");
  fault("\"op\": \"zero\", \"prompts\": []", "expected numbers of prompts, found none");
  fault("\"op\": \"zero\", \"positions\": []", "expected positions, found none");
  fault("\"op\": \"resample\", \"seed\": -1", "expected a whole number, found -1");
  fault("\"op\": \"swap-from-cache\"", "expected a field \"cache\"");
}

}  // namespace
}  // namespace elapse

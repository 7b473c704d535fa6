// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/prompts.h"

#include <gtest/gtest.h>

#include "elapse/text/byte_tokenizer.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

std::string fault(const std::string& jsonl, const Tokenizer* tokenizer) {
  try {
    parse_prompt_pairs(jsonl, "pairs", tokenizer, 256);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Prompts, AreTextsOrTokens) {
  const ByteTokenizer bytes;
  const auto pairs = parse_prompt_pairs(
      "{\"clean\": \"ab\", \"corrupt\": [99, 98], \"answer\": \"x\", \"wrong\": 121}\n\n", "pairs",
      &bytes, 256);
  ASSERT_EQ(pairs.size(), 1u);
  EXPECT_EQ(pairs[0].clean, (std::vector<int64_t>{97, 98}));
  EXPECT_EQ(pairs[0].corrupt, (std::vector<int64_t>{99, 98}));
  EXPECT_EQ(pairs[0].answer.right, 120);
  EXPECT_EQ(pairs[0].answer.wrong, 121);
  const TokenLists prompts = parse_prompts(
      "{\"text\": \"a\"}\n{\"tokens\": [1, 2]}\n{\"clean\": \"b\"}", "p", &bytes, 256);
  EXPECT_EQ(prompts, (TokenLists{{97}, {1, 2}, {98}}));
}

TEST(Prompts, NameTheirPositionsAndTemplate) {
  const ByteTokenizer bytes;
  const std::string line =
      "{\"clean\": \"abc\", \"corrupt\": \"abd\", \"answer\": 1, \"wrong\": 2, "
      "\"label\": {\"S2\": 1, \"end\": -1}, \"template\": \"BABA\"}";
  const PromptNotes notes = parse_prompt_pairs(line, "pairs", &bytes, 256).front().notes;
  EXPECT_EQ(notes.labels, (std::map<std::string, int64_t>{{"S2", 1}, {"end", 2}}));
  EXPECT_EQ(notes.group, "BABA");
  const Prompt prompt = parse_noted_prompts(line, "pairs", &bytes, 256).front();
  EXPECT_EQ(prompt.tokens, (std::vector<int64_t>{97, 98, 99}));
  EXPECT_EQ(prompt.notes.labels, notes.labels);
  for (const char* place : {"3", "-4"}) {
    const std::string wrong = std::string("{\"tokens\": [1, 2, 3], \"label\": {\"x\": ") + place;
    expect_error([&] { parse_prompts(wrong + "}}", "p", &bytes, 256); },
                 "p: line 1: field \"label.x\": expected a position of -3 to 2, found ");
  }
}

TEST(Prompts, FaultsNameTheLineAndTheField) {
  const ByteTokenizer bytes;
  const std::string rest = ", \"answer\": 1, \"wrong\": 2}";
  EXPECT_NE(fault("{\"clean\": \"ab\", \"corrupt\": \"a\"" + rest, &bytes)
                .find("line 1: expected prompts of as many tokens, found 2 in \"clean\" and 1"),
            std::string::npos);
  EXPECT_NE(fault("{\"clean\": \"a\", \"corrupt\": \"a\"" + rest, nullptr)
                .find("line 1: field \"clean\": expected token numbers"),
            std::string::npos);
  EXPECT_NE(fault("\n{\"clean\": [1], \"corrupt\": [256]" + rest, &bytes)
                .find("line 2: field \"corrupt[0]\": expected a token of 0 to 255, found 256"),
            std::string::npos);
  EXPECT_NE(fault("{\"clean\": [1], \"corrupt\": [2], \"answer\": \"xy\", \"wrong\": 2}", &bytes)
                .find("field \"answer\": expected a text of one token, found \"xy\" of 2"),
            std::string::npos);
  EXPECT_NE(fault("{\"clean\": []}", &bytes).find("expected at least one token"),
            std::string::npos);
  EXPECT_NE(fault("", &bytes).find("expected a JSON object a line"), std::string::npos);
  EXPECT_NE(fault("{\"clean\": [1], \"corrupt\": [2]}", &bytes).find("answer"), std::string::npos);
}

}  // namespace
}  // namespace elapse

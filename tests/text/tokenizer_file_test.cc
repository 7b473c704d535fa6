// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/tokenizer_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "elapse/io/file.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"
#include "tests/text/tokenizer_files.h"

namespace elapse {
namespace {

// The text of a family's tokenizer.json with `from` changed to `to`.
std::string changed(const std::string& family, const std::string& from, const std::string& to) {
  std::string text = read_text(kTokenizers + family + "/tokenizer.json");
  const size_t at = text.find(from);
  EXPECT_NE(at, text.npos) << from;
  return text.replace(at, from.size(), to);
}

void expect_refused(const std::string& family, const std::string& from, const std::string& to,
                    const std::string& part) {
  const std::string text = changed(family, from, to);
  expect_error([&] { parse_tokenizer_json(text, "tokenizer.json"); }, part);
  expect_error([&] { parse_tokenizer_json(text, "tokenizer.json"); }, "tokenizer.json");
}

TEST(TokenizerJson, RefusesByNameWhatIsNotKnown) {
  const std::string neox = "gpt_neox";
  expect_refused(neox, R"("version")", R"("colour": 1, "version")", R"("colour")");
  expect_refused(neox, R"("truncation": null)", R"("truncation": {})", R"("truncation")");
  expect_refused(neox, R"("padding": null)", R"("padding": {})", R"("padding")");
  expect_refused(neox, R"("NFC")", R"("Lowercase")", R"(NFC, Prepend, found "Lowercase")");
  expect_refused(neox, R"("pre_tokenizer": {"type": "ByteLevel")",
                 R"("pre_tokenizer": {"type": "Metaspace")", R"(found "Metaspace")");
  expect_refused(neox, R"("post_processor": {"type": "ByteLevel")",
                 R"("post_processor": {"type": "BertProcessing")", R"(found "BertProcessing")");
  expect_refused(neox, R"("decoder": {"type": "ByteLevel")", R"("decoder": {"type": "WordPiece")",
                 R"(found "WordPiece")");
  expect_refused(neox, R"("type": "BPE")", R"("type": "Unigram")", R"(BPE, found "Unigram")");
  expect_refused(neox, R"("dropout": null)", R"("dropout": 0.1)", R"("model.dropout")");
  expect_refused(neox, R"("byte_fallback": false)", R"("byte_fallback": true)",
                 R"("model.byte_fallback")");
  expect_refused(neox, R"("end_of_word_suffix": null)", R"("end_of_word_suffix": "</w>")",
                 R"("model.end_of_word_suffix")");
  expect_refused(neox, R"("lstrip": false)", R"("lstripe": false)", R"("lstripe")");
  expect_refused("llama3", R"("behavior": "Isolated")", R"("behavior": "Removed")", "Isolated");
  expect_refused("llama3", R"({"Regex")", R"({"String")", R"("String")");
  expect_refused("llama3", R"("ByteLevel")", R"("Digits")", "individual_digits");
}

TEST(TokenizerJson, RefusesContradictions) {
  expect_refused("gpt_neox", R"("!": 35)", R"("!": 36)", "one token with the number 36");
  expect_refused("gpt_neox", R"("!": 35)", R"("!": -1)", "a token's number from 0");
  expect_refused("gpt_neox", R"("!": 35)", R"("!": 99999999999)", "a token's number from 0");
  expect_refused("gpt_neox", R"("!": 35)", R"("none": 35)", "found none for 0x21");
  expect_refused("gpt_neox", R"("added_tokens": [{"id": 0)", R"("added_tokens": [{"id": 7)",
                 "one number for the token");
  expect_refused("gpt_neox", R"("content": "<|padding|>")", R"("content": "")", "1 to 1024 bytes");
  expect_refused("gpt_neox", R"("e r", )", R"("er", )", "two tokens with a space");
  expect_refused("gpt_neox", R"("e r", )", R"("e xyz", )", R"(found "xyz")");
  expect_refused("llama3", R"(["e", "r"])", R"(["e"])",
                 R"("model.merges[1]": expected two tokens)");
  expect_refused("llama3", R"("ids": [1000])", R"("ids": [999])", "expected a token's number");
  expect_refused("llama3", R"([{"SpecialToken": {"id": "<|b)", R"([{"SpecialToken": {"id": "<|c)",
                 "special_tokens");
}

TEST(TokenizerJson, RefusesTextThatIsNone) {
  for (const std::string text : {"", "{", "[]", "{}", "null", "\"x\"", R"({"model": 1})"}) {
    expect_error([&] { parse_tokenizer_json(text, "some.json"); }, "some.json");
  }
}

TEST(Gpt2Files, NameTheLineAtFault) {
  const std::string vocabulary = read_text(kTokenizers + "gpt2/vocab.json");
  const auto parse = [&](const std::string& merges) {
    parse_gpt2_files({vocabulary, "vocab.json"}, {merges, "merges.txt"});
  };
  parse("");
  parse("#version: 0.2\r\ne r\r\n");
  expect_error([&] { parse("#version: 0.2\n\ne r x\n"); }, "merges.txt: line 3");
  expect_error([&] { parse("e xyz"); },
               R"(merges.txt: line 1: expected a token of the vocabulary)");
  expect_error([&] { parse_gpt2_files({"[]", "v"}, {"", "m"}); }, "v: expected an object");
}

TEST(OpenTokenizer, SaysWhatItLookedFor) {
  const TemporaryFolder folder;
  EXPECT_EQ(find_tokenizer(folder.path()), nullptr);
  expect_error([&] { open_tokenizer(folder.path()); }, "expected tokenizer.json, or vocab.json");
  expect_error([&] { open_tokenizer(folder.path() + "/none"); }, folder.path() + "/none");
  std::ofstream(folder.path() + "/vocab.json") << "{}";
  expect_error([&] { open_tokenizer(folder.path()); }, "merges.txt");
  std::ofstream(folder.path() + "/added_tokens.json") << "{}";
  expect_error([&] { open_tokenizer(folder.path()); }, "added_tokens.json");
}

}  // namespace
}  // namespace elapse

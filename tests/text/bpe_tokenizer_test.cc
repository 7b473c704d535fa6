// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/bpe_tokenizer.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "elapse/core/error.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/text/tokenizer_file.h"
#include "tests/text/tokenizer_files.h"

namespace elapse {
namespace {

using Tokens = std::vector<int64_t>;

constexpr const char* kFamilies[] = {"gpt2", "gpt_neox", "llama3", "falcon", "prefix_space"};
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Case {
  std::string text;
  Tokens tokens;
};

std::vector<Case> cases_of(const std::string& family) {
  const std::string path = kTokenizers + family + "/cases.json";
  std::vector<Case> cases;
  for (const Json& item : Json::parse(read_text(path), path).items()) {
    Case made{item.text("text"), {}};
    for (const Json& id : item.at("ids").items()) made.tokens.push_back(id.integer());
    cases.push_back(std::move(made));
  }
  return cases;
}

std::string random_bytes(std::mt19937& random, size_t most) {
  std::string text(random() % (most + 1), '\0');
  for (char& byte : text) byte = static_cast<char>(random());
  return text;
}

// Letters, spaces, newlines, parts of characters and whole ones.
std::string random_pieces(std::mt19937& random, size_t count) {
  constexpr std::string_view kPieces[] = {"a",
                                          "the",
                                          " ",
                                          "  ",
                                          "\n",
                                          "\xE2\x80",
                                          "'s",
                                          "\x80",
                                          "1",
                                          "\xC3",
                                          "\u00e9",
                                          "e\u0301",
                                          "\U0001F600",
                                          "\xFF",
                                          "\xF0\x9F\x98",
                                          "<|endoftext|>",
                                          "\r\n",
                                          "!"};
  std::string text;
  for (size_t i = 0; i < count; ++i) text += kPieces[random() % std::size(kPieces)];
  return text;
}

TEST(BpeTokenizer, MakesTheTokensOfTheSlowImplementation) {
  for (const std::string family : kFamilies) {
    const auto tokenizer = open_tokenizer(kTokenizers + family);
    const std::vector<Case> cases = cases_of(family);
    EXPECT_GT(cases.size(), 40u);
    for (int round = 0; round < 2; ++round) {  // the second from the cache
      for (const auto& [text, tokens] : cases) {
        EXPECT_EQ(tokenizer->encode(text), tokens) << family << ": " << text;
      }
    }
  }
}

TEST(BpeTokenizer, AnyBytesComeBack) {
  std::mt19937 random(1);
  for (const std::string family : {"gpt2", "llama3", "falcon"}) {  // none of them normalises
    const auto tokenizer = open_tokenizer(kTokenizers + family);
    for (int i = 0; i < 500; ++i) {
      const std::string text = i % 2 ? random_bytes(random, 200) : random_pieces(random, 100);
      ASSERT_EQ(decoded(*tokenizer, tokenizer->encode(text)), text) << family;
    }
  }
}

TEST(BpeTokenizer, AByteWithoutATokenIsReadAsAReplacementCharacter) {
  const auto tokenizer = open_tokenizer(kTokenizers + "gpt_neox");
  EXPECT_EQ(decoded(*tokenizer, tokenizer->encode("a\xFF\xC1z\x80")),
            "a" + std::string(kReplacement) + std::string(kReplacement) + "z\x80");
}

TEST(BpeTokenizer, BytesOfNoCharacterAreNotNormalised) {
  const auto tokenizer = open_tokenizer(kTokenizers + "gpt_neox");
  EXPECT_EQ(decoded(*tokenizer, tokenizer->encode("e\u0301\xCC"
                                                  "e\u0301")),
            "\u00e9\xCC\u00e9");
}

TEST(BpeTokenizer, SeveralThreadsMayEncode) {
  const auto tokenizer = open_tokenizer(kTokenizers + "gpt_neox");
  const std::vector<Case> cases = cases_of("gpt_neox");
  std::array<int, 4> wrong{};
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        for (const auto& [text, tokens] : cases) count += tokenizer->encode(text) != tokens;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

// What takes time of the square of the length would take hours.
TEST(BpeTokenizer, HostileTextsTakeTheirLengthOfTime) {
  constexpr size_t kBytes = 1'000'000;
  for (const std::string family : kFamilies) {
    const auto tokenizer = open_tokenizer(kTokenizers + family);
    for (const std::string unit : {"a", " ", "\n", "\u0301", "1", "\x80", "' ", "\xC3("}) {
      std::string text;
      while (text.size() < kBytes) text += unit;
      const auto start = std::chrono::steady_clock::now();
      EXPECT_GT(tokenizer->encode(text).size(), 1000u);
      const auto taken = std::chrono::steady_clock::now() - start;
      EXPECT_LT(taken, std::chrono::seconds(60)) << family << ": " << unit;
    }
  }
}

TEST(BpeTokenizer, NumbersGoUpToTheLargest) {
  const auto tokenizer = open_tokenizer(kTokenizers + "llama3");
  EXPECT_EQ(tokenizer->vocab_size(), 1002);
  EXPECT_EQ(tokenizer->decode(1001), "<|endoftext|>");
  EXPECT_EQ(tokenizer->decode(999), "");  // a gap
  EXPECT_THROW(tokenizer->decode(1002), Error);
  EXPECT_THROW(tokenizer->decode(-1), Error);
  EXPECT_THROW(tokenizer->decode(INT64_MAX), Error);
}

TEST(BpeTokenizer, KnowsAddedTokensAndWhatStandsBeforeAText) {
  const auto llama3 = open_tokenizer(kTokenizers + "llama3");
  EXPECT_EQ(llama3->added_token("<|endoftext|>"), 1001);
  EXPECT_EQ(llama3->added_token("the"), std::nullopt);
  EXPECT_EQ(llama3->prefix(), Tokens{1000});
  EXPECT_TRUE(open_tokenizer(kTokenizers + "gpt_neox")->prefix().empty());
}

class Published : public testing::Test {
 protected:
  static constexpr const char* kFile = "tokenizers/gpt_neox_20b/20B_tokenizer.json";

  void SetUp() override {
    if (!std::filesystem::exists(kSharedData + kFile))
      GTEST_SKIP() << "no " << kSharedData << kFile;
    tokenizer_ = open_tokenizer(kSharedData + kFile);
  }
  void expect_back(const std::string& file) {
    const std::string text = read_text(kSharedData + file);
    EXPECT_EQ(decoded(*tokenizer_, tokenizer_->encode(text)), nfc(text)) << file;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

std::vector<std::string> parts_of(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at = 0; (at = text.find(separator, begin)) != text.npos;
       begin = at + separator.size()) {
    parts.push_back(text.substr(begin, at - begin));
  }
  parts.push_back(text.substr(begin));
  return parts;
}

TEST_F(Published, VectorsOfGptNeoX) {
  const std::string folder = kSharedData + "tokenizers/gpt_neox_20b/";
  const auto inputs = parts_of(read_text(folder + "vectors.inp"), "\n__ggml_vocab_test__\n");
  const auto outputs = parts_of(read_text(folder + "vectors.out"), "\n");
  ASSERT_EQ(inputs.size(), 47u);
  ASSERT_GE(outputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::string found;
    for (const int64_t token : tokenizer_->encode(inputs[i])) found += fmt::format(" {}", token);
    EXPECT_EQ(found, outputs[i]) << inputs[i];
  }
}

TEST_F(Published, TextsComeBack) {
  expect_back("wikitext2/wiki.test.raw");
  expect_back("wikitext2/wiki.valid.raw");
  expect_back("lambada/lambada_openai_llmfoundry.jsonl");
  expect_back("tinyshakespeare/input.txt");
}

// Bytes below 0xCC are in no character that normalisation changes.
TEST_F(Published, RandomBytesComeBack) {
  std::mt19937 random(2);
  for (int i = 0; i < 200; ++i) {
    std::string bytes = random_bytes(random, 1000), expected;
    for (char& byte : bytes) {
      if (static_cast<unsigned char>(byte) >= 0xCC) byte = '\xFF';
      const bool has_token = byte != '\xFF' && byte != '\xC0' && byte != '\xC1';
      expected += has_token ? std::string_view(&byte, 1) : kReplacement;
    }
    ASSERT_EQ(decoded(*tokenizer_, tokenizer_->encode(bytes)), expected);
  }
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/text_data.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

// Bytes 0, 1, 2, ...: a byte tells where it stands.
std::string counting(int64_t size) {
  std::string bytes;
  for (int64_t i = 0; i < size; ++i) bytes += static_cast<char>(i);
  return bytes;
}

void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST(TextData, holds_out_the_last_tenth) {
  for (const auto& [bytes, training] : {std::pair(10, 9), {11, 9}, {19, 17}, {20, 18}, {101, 90}}) {
    const TextData data(counting(bytes), "text", 1);
    EXPECT_EQ(data.training_tokens(), training);
    EXPECT_EQ(data.held_out_tokens(), bytes - training);
  }
}

TEST(TextData, training_windows_lie_anywhere_in_the_training_bytes) {
  const TextData data(counting(100), "text", 1);
  std::set<int64_t> begins;
  for (int64_t step = 0; step < 200; ++step) {
    const TokenBatch batch = data.training_batch(step, 0, 4, 20);
    ASSERT_EQ(batch.lengths, std::vector<int64_t>(4, 20));
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
      EXPECT_EQ(batch.tokens[i], batch.tokens[i / 20 * 20] + static_cast<int64_t>(i % 20));
      EXPECT_EQ(batch.targets[i], batch.tokens[i] + 1);
      EXPECT_LT(batch.targets[i], 90);
    }
    for (size_t s = 0; s < 4; ++s) begins.insert(batch.tokens[s * 20]);
  }
  EXPECT_EQ(begins.size(), 70U);  // 0 .. 69: all that leave room for a window and its target
}

TEST(TextData, bytes_above_127_are_tokens_above_127) {
  const TextData data(std::string(50, '\xff'), "text", 1);
  EXPECT_EQ(data.training_batch(0, 0, 1, 1).tokens.front(), 255);
}

TEST(TextData, every_held_out_byte_but_the_first_is_a_target_once) {
  const TextData data(counting(200) + counting(60), "text", 1);
  for (const int64_t length : {1, 2, 7, 24, 25, 26, 10000}) {
    std::vector<int64_t> targets;
    for (int64_t i = 0; i < data.held_out_batches(length); ++i) {
      const TokenBatch batch = data.held_out_batch(i, length);
      targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
      for (int64_t l : batch.lengths) EXPECT_LE(l, length);
      for (size_t t = 0; t < batch.tokens.size(); ++t) {
        EXPECT_EQ(batch.targets[t], batch.tokens[t] + 1);
      }
    }
    ASSERT_EQ(targets.size(), 25U) << length;
    for (size_t i = 0; i < 25; ++i) EXPECT_EQ(targets[i], static_cast<int64_t>(35 + i)) << length;
  }
}

TEST(TextData, held_out_windows_of_a_long_text_come_in_several_batches) {
  const TextData data(std::string(100'000, 'x'), "text", 1);
  EXPECT_EQ(data.held_out_batches(1024), 2);
  int64_t targets = 0;
  for (int64_t i = 0; i < 2; ++i) targets += data.held_out_batch(i, 1024).counted_targets();
  EXPECT_EQ(targets, 9999);
}

// Pairs of bytes as tokens that need `vocab_size`: 'a' 'b' is 97 + 256 * 98, and so on.
class Pairs final : public Tokenizer {
 public:
  explicit Pairs(int64_t vocab_size) : vocab_size_(vocab_size) {}

  int64_t vocab_size() const override { return vocab_size_; }
  std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> tokens;
    for (size_t i = 0; i + 1 < text.size(); i += 2) {
      tokens.push_back(
          (static_cast<unsigned char>(text[i]) + 256 * static_cast<unsigned char>(text[i + 1])) %
          vocab_size_);
    }
    return tokens;
  }
  std::string decode(int64_t) const override { return ""; }

 private:
  int64_t vocab_size_;
};

TEST(TextData, of_a_tokenizer_has_its_tokens) {
  const std::string text = counting(256) + counting(255) + "\xff\xff\xff";
  for (const int64_t vocab_size : {2, 255, 256, 257, 65535, 65536, 65537, 1 << 20}) {
    const Pairs tokenizer(vocab_size);
    const std::vector<int64_t> tokens = tokenizer.encode(text);
    const TextData data(tokenizer, text, "pairs", 1);
    EXPECT_EQ(data.vocab_size(), vocab_size);
    ASSERT_EQ(data.training_tokens() + data.held_out_tokens(), std::ssize(tokens));
    const TokenBatch batch = data.held_out_batch(0, 1000);
    const auto held_out = tokens.begin() + data.training_tokens();
    EXPECT_EQ(batch.tokens, std::vector<int64_t>(held_out, tokens.end() - 1)) << vocab_size;
    EXPECT_EQ(batch.targets, std::vector<int64_t>(held_out + 1, tokens.end())) << vocab_size;
  }
  const TextData data(Pairs(1 << 16), text, "pairs", 1);
  EXPECT_TRUE(data.description().starts_with("text of 257 tokens, hash "));
  expect_error([&] { data.check_length(300); }, "expected more than 300 tokens to train on");
}

TEST(TextData, files_are_one_text) {
  const TemporaryFolder folder;
  write(folder / "a", "0123456789");
  write(folder / "b", "abcdefghij");
  const TextData joined = TextData::open({folder / "a", folder / "b"}, 3);
  const TextData whole("0123456789abcdefghij", "text", 3);
  EXPECT_EQ(joined.description(), whole.description());
  EXPECT_EQ(joined.training_batch(1, 0, 3, 5).tokens, whole.training_batch(1, 0, 3, 5).tokens);
}

TEST(TextData, the_description_tells_texts_and_seeds_apart) {
  const std::string text(30, 'x');
  std::string other = text;
  other.back() = 'y';
  EXPECT_NE(TextData(text, "t", 1).description(), TextData(other, "t", 1).description());
  EXPECT_NE(TextData(text, "t", 1).description(), TextData(text, "t", 2).description());
}

TEST(TextData, names_the_file_that_is_empty_missing_or_too_short) {
  const TemporaryFolder folder;
  write(folder / "empty", "");
  write(folder / "text", counting(20));
  expect_error(
      [&] {
        TextData::open({folder / "text", folder / "empty"}, 1);
      },
      "empty: expected text, found an empty file");
  expect_error([&] { TextData::open({folder / "none"}, 1); }, "none: cannot open");
  const TextData data = TextData::open({folder / "text"}, 1);
  data.check_length(17);
  expect_error([&] { data.check_length(18); },
               "text: too short for sequences of 18 tokens: expected more than 18 bytes to train "
               "on and at least 2 held out, found 18 and 2");
  expect_error([&] { TextData("0123456789", "ten", 1).check_length(3); }, "found 9 and 1");
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/model_text.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

using Tokens = std::vector<int64_t>;

const std::string kLlama3 = "tests/fixtures/tokenizers/llama3";

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

TEST(ModelText, IsBytesWhereThereIsNoTokenizerAnd256Classes) {
  const TemporaryFolder folder;
  const ModelText text = open_model_text(folder.path(), 256);
  EXPECT_EQ(text.tokenizer->encode("\xFF"), Tokens{255});
  EXPECT_TRUE(text.ends.empty());
  expect_error([&] { open_model_text(folder.path(), 255); }, "tokenizer.json, or vocab.json");
}

TEST(ModelText, OfBytesEndsWhereTheModelsFilesSaySo) {
  const TemporaryFolder folder;
  write(folder / "config.json", R"({"eos_token_id": 10})");
  EXPECT_EQ(open_model_text(folder.path(), 256).ends, Tokens{10});
  write(folder / "generation_config.json", R"({"eos_token_id": [0, 46]})");
  EXPECT_EQ(open_model_text(folder.path(), 256).ends, (Tokens{0, 46}));
}

TEST(ModelText, ComesFromTheFolderOrFromWhatIsChosen) {
  const TemporaryFolder folder;
  EXPECT_EQ(open_model_text(kLlama3, 1002).tokenizer->vocab_size(), 1002);
  EXPECT_EQ(open_model_text(folder.path(), 1010, kLlama3).tokenizer->vocab_size(), 1002);
  expect_error([&] { open_model_text(folder.path(), 1001, kLlama3); },
               kLlama3 + ": expected token numbers below 1001, the \"vocab_size\" of " +
                   folder.path() + "/config.json, found 1002");
}

TEST(ModelText, EndsAsTheModelsFilesSay) {
  const TemporaryFolder folder;
  const auto ends = [&] { return open_model_text(folder.path(), 2000, kLlama3).ends; };
  EXPECT_EQ(ends(), Tokens{1001});  // <|endoftext|>
  write(folder / "config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(ends(), Tokens{1001});
  write(folder / "config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(ends(), Tokens{7});
  write(folder / "generation_config.json", R"({"eos_token_id": [8, 9]})");
  EXPECT_EQ(ends(), (Tokens{8, 9}));
  write(folder / "generation_config.json", R"({"eos_token_id": "x"})");
  expect_error(ends, "generation_config.json: field \"eos_token_id\"");
}

}  // namespace
}  // namespace elapse

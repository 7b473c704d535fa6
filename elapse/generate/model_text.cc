// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/model_text.h"

#include <filesystem>

#include "elapse/core/error.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/model/config.h"
#include "elapse/text/byte_tokenizer.h"
#include "elapse/text/tokenizer_file.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEndNames[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>"};

void check_fits(const Tokenizer& tokenizer, const std::string& tokenizer_path,
                const std::string& folder, int64_t vocab_size) {
  ELAPSE_CHECK(tokenizer.vocab_size() <= vocab_size,
               "{}: expected token numbers below {}, the \"vocab_size\" of {}/config.json, found "
               "{} tokens",
               tokenizer_path, vocab_size, folder, tokenizer.vocab_size());
}

// None where the file or the field is not there.
std::vector<int64_t> end_tokens_of(const fs::path& file, int64_t vocab_size) {
  if (!file_exists(file)) return {};
  return token_numbers(Json::parse(read_text(file), file), "eos_token_id", vocab_size);
}

std::vector<int64_t> stated_ends(const std::string& folder, int64_t vocab_size) {
  for (const char* file : {"generation_config.json", "config.json"}) {
    auto tokens = end_tokens_of(fs::path(folder) / file, vocab_size);
    if (!tokens.empty()) return tokens;
  }
  return {};
}

std::vector<int64_t> end_tokens(const std::string& folder, int64_t vocab_size,
                                const Tokenizer& tokenizer) {
  auto stated = stated_ends(folder, vocab_size);
  if (!stated.empty()) return stated;
  for (const auto name : kEndNames) {
    if (const auto token = tokenizer.added_token(name)) return {*token};
  }
  return {};
}

}  // namespace

ModelText open_model_text(const std::string& folder, int64_t vocab_size,
                          const std::string& chosen) {
  auto tokenizer = chosen.empty() ? find_tokenizer(folder) : open_tokenizer(chosen);
  if (tokenizer) {
    check_fits(*tokenizer, chosen.empty() ? folder : chosen, folder, vocab_size);
    std::vector<int64_t> ends = end_tokens(folder, vocab_size, *tokenizer);
    return {std::move(tokenizer), std::move(ends)};
  }
  ELAPSE_CHECK(vocab_size == ByteTokenizer::kVocabSize,
               "{}: expected tokenizer.json, or vocab.json with merges.txt, or a \"vocab_size\" of "
               "{} (bytes) in config.json, found neither file and {}",
               folder, ByteTokenizer::kVocabSize, vocab_size);
  return {std::make_unique<ByteTokenizer>(), stated_ends(folder, vocab_size)};
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/tokenizer_file.h"

#include <filesystem>

#include "elapse/core/error.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<Tokenizer> open_json(const std::string& path) {
  return parse_tokenizer_json(read_text(path), path);
}

std::unique_ptr<Tokenizer> open_gpt2_files(const fs::path& folder) {
  const fs::path more = folder / "added_tokens.json";
  ELAPSE_CHECK(!file_exists(more),
               "{}: expected no added tokens beside vocab.json, which are read from a "
               "tokenizer.json alone, found some",
               more.string());
  const std::string vocabulary = folder / "vocab.json", merges = folder / "merges.txt";
  const std::string vocabulary_text = read_text(vocabulary), merges_text = read_text(merges);
  return parse_gpt2_files({vocabulary_text, vocabulary}, {merges_text, merges});
}

}  // namespace

std::unique_ptr<Tokenizer> find_tokenizer(const std::string& folder) {
  const fs::path json = fs::path(folder) / "tokenizer.json";
  if (file_exists(json)) return open_json(json);
  if (file_exists(fs::path(folder) / "vocab.json")) return open_gpt2_files(folder);
  return nullptr;
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  std::error_code none;
  if (!fs::is_directory(path, none)) return open_json(path);
  auto found = find_tokenizer(path);
  ELAPSE_CHECK(found != nullptr,
               "{}: expected tokenizer.json, or vocab.json with merges.txt, found neither", path);
  return found;
}

}  // namespace elapse

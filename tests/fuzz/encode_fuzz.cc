// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string>

#include "elapse/text/bpe_tokenizer.h"
#include "elapse/text/byte_level.h"

namespace {

using elapse::BpeDescription;
using elapse::BpeTokenizer;

// A few merges, an added token, and no step that changes text.
BpeDescription description(bool ignore_merges) {
  BpeDescription d;
  const auto add = [&](const std::string& bytes) {
    const auto id = static_cast<int32_t>(d.vocabulary.tokens().size());
    d.vocabulary.add(elapse::byte_level_text(bytes), id, [] { return std::string(); });
    return id;
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const auto& [left, right] :
       {std::pair(' ', 't'), {'e', ' '}, {'\xCC', '\x81'}, {'a', 'a'}}) {
    const int32_t made = add(std::string{left, right});
    d.merges.push_back({static_cast<uint8_t>(left), static_cast<uint8_t>(right), made});
  }
  const int32_t end = add("<|end|>");
  d.added.push_back({.content = "<|end|>", .id = end});
  d.ignore_merges = ignore_merges;
  const char* split =
      R"((?i:'s|'t|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  d.pre_tokenizer.add_pattern(elapse::Pattern(split, "fuzz"), false);
  d.pre_tokenizer.add_pattern(elapse::Pattern("[0-9]", "fuzz"), true);
  return d;
}

void expect_back(const BpeTokenizer& tokenizer, std::string_view text) {
  std::string back;
  for (const int64_t token : tokenizer.encode(text)) back += tokenizer.decode(token);
  if (back != text) __builtin_trap();
}

}  // namespace

// Any bytes come back from their tokens.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const BpeTokenizer merging(description(false), "fuzz");
  static const BpeTokenizer whole(description(true), "fuzz");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  expect_back(merging, text);
  expect_back(whole, text);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/interpret/prompts.h"
#include "elapse/text/byte_tokenizer.h"

namespace {

constexpr int64_t kClasses = 256;

void check(const std::vector<int64_t>& tokens, const elapse::PromptNotes& notes) {
  if (tokens.empty()) __builtin_trap();
  for (const int64_t t : tokens) {
    if (t < 0 || t >= kClasses) __builtin_trap();
  }
  for (const auto& [label, place] : notes.labels) {
    if (place < 0 || place >= static_cast<int64_t>(tokens.size())) __builtin_trap();
  }
}

}  // namespace

// What is taken can be run: tokens are classes, labels are of tokens, pairs are of one length.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const elapse::ByteTokenizer bytes;
  try {
    for (const auto& pair : elapse::parse_prompt_pairs(text, "fuzz", &bytes, kClasses)) {
      check(pair.clean, pair.notes);
      check(pair.corrupt, pair.notes);
      if (pair.clean.size() != pair.corrupt.size()) __builtin_trap();
    }
  } catch (const elapse::Error&) {
  }
  try {
    for (const auto& prompt : elapse::parse_noted_prompts(text, "fuzz", &bytes, kClasses)) {
      check(prompt.tokens, prompt.notes);
    }
  } catch (const elapse::Error&) {
  }
  return 0;
}

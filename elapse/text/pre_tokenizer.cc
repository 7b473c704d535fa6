// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/pre_tokenizer.h"

#include "elapse/text/byte_level.h"

namespace elapse {
namespace {

size_t characters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return count;
}

// A character of byte text is a byte of `bytes`.
void split_in_byte_text(const Pattern& pattern, std::string_view bytes, const PieceVisitor& visit) {
  pattern.split(byte_level_text(bytes), [&](std::string_view piece) {
    const size_t size = characters(piece);
    visit(bytes.substr(0, size));
    bytes.remove_prefix(size);
  });
}

}  // namespace

void PreTokenizer::add_pattern(Pattern pattern, bool in_byte_text) {
  const auto kind = in_byte_text ? Step::Kind::pattern_in_byte_text : Step::Kind::pattern;
  steps_.push_back({kind, std::move(pattern)});
}

void PreTokenizer::add_prefix_space() { steps_.push_back({Step::Kind::prefix_space, {}}); }

void PreTokenizer::split(std::string_view text, const PieceVisitor& visit) const {
  run(0, text, visit);
}

void PreTokenizer::run(size_t step, std::string_view text, const PieceVisitor& visit) const {
  if (step == steps_.size()) return visit(text);
  const auto& [kind, pattern] = steps_[step];
  const auto go_on = [&](std::string_view piece) { run(step + 1, piece, visit); };
  if (kind == Step::Kind::pattern) {
    pattern->split(text, go_on);
  } else if (kind == Step::Kind::pattern_in_byte_text) {
    split_in_byte_text(*pattern, text, go_on);
  } else if (!text.starts_with(' ')) {
    go_on(" " + std::string(text));
  } else {
    go_on(text);
  }
}

}  // namespace elapse

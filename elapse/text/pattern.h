// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace elapse {

using PieceVisitor = std::function<void(std::string_view piece)>;

// A regular expression of a tokenizer file, which means what Oniguruma makes of it, matched by
// PCRE2. Of the two languages it knows what both have in common and tokenizers use: characters,
// classes, \s \S \w \W \d \D \p{..} \P{..}, groups, (?i:, lookaround, alternatives, repetition.
class Pattern {
 public:
  // `where` opens errors: of what is not known, and of matching that would take too long.
  Pattern(std::string_view regex, std::string where);

  // Cuts `text` (UTF-8) into the parts that match and those between them, front to back.
  void split(std::string_view text, const PieceVisitor& visit) const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
  std::string where_;
};

}  // namespace elapse

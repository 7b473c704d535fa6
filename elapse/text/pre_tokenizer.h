// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <vector>

#include "elapse/text/pattern.h"

namespace elapse {

// Cuts a text into the pieces within which tokens are made: one step after another cuts what the
// steps before it left.
class PreTokenizer {
 public:
  // Cuts out what matches. `in_byte_text`: looked for in the piece as byte_level_text writes it,
  // as steps that a file has behind its ByteLevel step do.
  void add_pattern(Pattern pattern, bool in_byte_text);
  // Puts a space before a piece that does not begin with one.
  void add_prefix_space();

  void split(std::string_view text, const PieceVisitor& visit) const;

 private:
  struct Step {
    enum class Kind { pattern, pattern_in_byte_text, prefix_space } kind;
    std::optional<Pattern> pattern;  // none for prefix_space
  };
  void run(size_t step, std::string_view text, const PieceVisitor& visit) const;

  std::vector<Step> steps_;
};

}  // namespace elapse

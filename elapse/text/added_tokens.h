// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elapse/text/pattern.h"

namespace elapse {

// A token that is matched in the text as it is written, before anything is split.
struct AddedToken {
  std::string content;
  int64_t id = 0;
  bool single_word = false;  // only between characters that are no part of a word
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for after normalisation, itself normalised
};

// Finds added tokens in text: at each place the longest, front to back.
class AddedTokens {
 public:
  void add(AddedToken token);  // its content is not empty

  // Cuts `text` (UTF-8) into added tokens and what stands between them.
  void split(std::string_view text, const PieceVisitor& on_text,
             const std::function<void(int64_t id)>& on_token) const;

 private:
  static constexpr size_t kNone = SIZE_MAX;
  // A tree of contents, a byte an edge.
  struct Node {
    std::vector<std::pair<char, size_t>> next;
    size_t token = kNone;  // index of the one whose content ends here
  };
  struct Match {
    size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;  // null: there is none
  };

  size_t child(size_t node, char byte) const;  // 0: none
  const AddedToken* longest_at(std::string_view text) const;
  Match find(std::string_view text, size_t from) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> begins_{};  // whether a content begins with this byte
};

}  // namespace elapse

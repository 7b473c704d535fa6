// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <cassert>

namespace elapse {
namespace {

using CharacterTest = bool (*)(utf8proc_int32_t);

bool is_space(utf8proc_int32_t c) {
  const auto category = utf8proc_category(c);
  return (c >= '\t' && c <= '\r') || c == 0x85 || category == UTF8PROC_CATEGORY_ZS ||
         category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

bool is_word(utf8proc_int32_t c) {
  const auto category = utf8proc_category(c);
  const bool letter_or_mark = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME;
  return letter_or_mark || category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D;
}

// Bytes of the character at the front of `text` (UTF-8) if it passes, else 0.
size_t front_if(std::string_view text, CharacterTest passes) {
  if (text.empty()) return 0;
  utf8proc_int32_t c = 0;
  const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                       static_cast<utf8proc_ssize_t>(text.size()), &c);
  return passes(c) ? static_cast<size_t>(length) : 0;
}

// The same for the character at its back.
size_t back_if(std::string_view text, CharacterTest passes) {
  size_t length = std::min<size_t>(1, text.size());
  while (length < text.size() &&
         (static_cast<unsigned char>(text[text.size() - length]) & 0xC0) == 0x80) {
    ++length;
  }
  return front_if(text.substr(text.size() - length), passes);
}

bool stands_alone(std::string_view before, std::string_view behind) {
  return back_if(before, is_word) == 0 && front_if(behind, is_word) == 0;
}

}  // namespace

void AddedTokens::add(AddedToken token) {
  assert(!token.content.empty());
  begins_[static_cast<unsigned char>(token.content.front())] = true;
  size_t node = 0;
  for (const char byte : token.content) {
    size_t next = child(node, byte);
    if (next == 0) {
      next = nodes_.size();
      nodes_[node].next.emplace_back(byte, next);
      nodes_.emplace_back();
    }
    node = next;
  }
  nodes_[node].token = tokens_.size();
  tokens_.push_back(std::move(token));
}

size_t AddedTokens::child(size_t node, char byte) const {
  for (const auto& [edge, next] : nodes_[node].next) {
    if (edge == byte) return next;
  }
  return 0;
}

const AddedToken* AddedTokens::longest_at(std::string_view text) const {
  size_t node = 0, token = kNone;
  for (const char byte : text) {
    node = child(node, byte);
    if (node == 0) break;
    if (nodes_[node].token != kNone) token = nodes_[node].token;
  }
  return token == kNone ? nullptr : &tokens_[token];
}

AddedTokens::Match AddedTokens::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    const AddedToken* token = longest_at(text.substr(at));
    if (token == nullptr) continue;
    const size_t end = at + token->content.size();
    if (!token->single_word || stands_alone(text.substr(0, at), text.substr(end))) {
      return {at, end, token};
    }
    at = end - 1;  // a match that does not count is passed over whole
  }
  return {};
}

void AddedTokens::split(std::string_view text, const PieceVisitor& on_text,
                        const std::function<void(int64_t id)>& on_token) const {
  size_t done = 0;
  while (done < text.size()) {
    Match match = find(text, done);
    if (match.token == nullptr) break;
    if (match.token->lstrip) {
      while (const size_t n = back_if(text.substr(done, match.begin - done), is_space)) {
        match.begin -= n;
      }
    }
    if (match.token->rstrip) {
      while (const size_t n = front_if(text.substr(match.end), is_space)) match.end += n;
    }
    if (done < match.begin) on_text(text.substr(done, match.begin - done));
    on_token(match.token->id);
    done = match.end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace elapse

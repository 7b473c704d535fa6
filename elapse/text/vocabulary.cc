// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/vocabulary.h"

#include "elapse/core/error.h"
#include "elapse/io/messages.h"

namespace elapse {

void Vocabulary::add(std::string_view token, int64_t id,
                     const std::function<std::string()>& where) {
  if (id < 0 || id >= kMostTokens) {
    fail("{}: expected a token's number from 0 to {}, found {}", where(), kMostTokens - 1, id);
  }
  const auto index = static_cast<size_t>(id);
  if (index >= tokens_.size()) tokens_.resize(index + 1);
  const auto [place, added] = ids_.emplace(token, static_cast<int32_t>(id));
  if (place->second != id) {
    fail("{}: expected one number for the token {}, found {} and {}", where(), quote(token),
         place->second, id);
  }
  if (added && tokens_[index]) {
    fail("{}: expected one token with the number {}, found {} and {}", where(), id,
         quote(*tokens_[index]), quote(token));
  }
  if (added) tokens_[index] = token;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace elapse

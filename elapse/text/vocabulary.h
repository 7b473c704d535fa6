// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace elapse {

// Tokens, as text, and their numbers: one of each for one of the other.
class Vocabulary {
 public:
  // Numbers lie below this, so that a file cannot ask for more memory than tokenizers take.
  static constexpr int64_t kMostTokens = int64_t{1} << 19;

  // Adding what is there already, token and number, does nothing. `where` opens the errors of what
  // contradicts it.
  void add(std::string_view token, int64_t id, const std::function<std::string()>& where);

  std::optional<int32_t> find(std::string_view token) const;
  bool has(int64_t id) const {
    return id >= 0 && id < static_cast<int64_t>(tokens_.size()) &&
           tokens_[static_cast<size_t>(id)].has_value();
  }
  // By number, up to the largest there is.
  const std::vector<std::optional<std::string>>& tokens() const { return tokens_; }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::optional<std::string>> tokens_;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// `text` (UTF-8) in Unicode's normalisation form C: characters composed of their parts.
std::string nfc(std::string_view text);

// What a tokenizer does to text before it looks for tokens.
class Normalizer {
 public:
  void add_nfc() { steps_.push_back({Step::Kind::nfc, {}}); }
  void add_prepend(std::string prefix) {  // of text that is not empty
    steps_.push_back({Step::Kind::prepend, std::move(prefix)});
  }

  // `text` (UTF-8) normalised: itself, or in `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  struct Step {
    enum class Kind { nfc, prepend } kind;
    std::string prefix;
  };
  static std::string applied(const Step& step, std::string_view text);

  std::vector<Step> steps_;
};

}  // namespace elapse

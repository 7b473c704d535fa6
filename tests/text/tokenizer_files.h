// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <string>

#include "elapse/text/tokenizer.h"

namespace elapse {

inline const std::string kTokenizers = "tests/fixtures/tokenizers/";

// Beside the checkout; not part of the project.
inline const std::string kSharedData = "../shared/data/";

inline std::string decoded(const Tokenizer& tokenizer, const std::vector<int64_t>& tokens) {
  std::string text;
  for (const int64_t token : tokens) text += tokenizer.decode(token);
  return text;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "elapse/text/tokenizer.h"

namespace elapse {

// How text becomes a model's tokens and the other way.
struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<int64_t> ends;  // a text is over at any of these tokens
};

// For the model in `folder`, which has `vocab_size` classes: the tokenizer at `chosen` (a
// tokenizer.json or a folder) or, if that is empty, in the model's folder; bytes where there is
// none and 256 classes. Texts end as `eos_token_id` in generation_config.json or config.json says,
// else at an added token of a usual name, which bytes have none of. Throws Error where no tokenizer
// is found, or one that has more tokens than the model classes, or where an end is no class.
ModelText open_model_text(const std::string& folder, int64_t vocab_size,
                          const std::string& chosen = {});

}  // namespace elapse

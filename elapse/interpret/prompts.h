// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "elapse/generate/model_text.h"
#include "elapse/interpret/metrics.h"

namespace elapse {

// A prompt, one as long that asks for another answer, and the two answers.
struct PromptPair {
  std::vector<int64_t> clean, corrupt;
  Answer answer;  // of `clean`, and the one that is wrong there
};

// A JSON object a line:
//   {"clean": "When Mary and John ...", "corrupt": "When Mary and Ann ...",
//    "answer": " John", "wrong": " Ann"}
// Prompts are texts or lists of token numbers, answers texts of one token or token numbers. Texts
// need a tokenizer; it may be null. What its authors put before a text is put before each prompt.
// Throws Error naming the line and the field; so where a pair's prompts have not as many tokens.
std::vector<PromptPair> parse_prompt_pairs(std::string_view jsonl, const std::string& name,
                                           const Tokenizer* tokenizer, int64_t classes);

// {"text": ...} or {"tokens": [...]} a line; a pair's line counts as its clean prompt.
TokenLists parse_prompts(std::string_view jsonl, const std::string& name,
                         const Tokenizer* tokenizer, int64_t classes);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/generate/model_text.h"
#include "elapse/interpret/metrics.h"

namespace elapse {

// What is known of a prompt beside its tokens.
struct PromptNotes {
  std::map<std::string, int64_t> labels = {};  // names of positions, of 0 to the last token
  std::string group = {};  // prompts of one template, whose positions mean the same
};

struct Prompt {
  std::vector<int64_t> tokens;
  PromptNotes notes = {};
};

// A prompt, one as long that asks for another answer, and the two answers.
struct PromptPair {
  std::vector<int64_t> clean, corrupt;
  Answer answer;  // of `clean`, and the one that is wrong there
  PromptNotes notes = {};
};

// A JSON object a line:
//   {"clean": "When Mary and John ...", "corrupt": "When Mary and Ann ...",
//    "answer": " John", "wrong": " Ann"}
// Prompts are texts or lists of token numbers, answers texts of one token or token numbers. Texts
// need a tokenizer; it may be null. What its authors put before a text is put before each prompt.
// A line may name positions, counted from the end where they are negative, and a template:
//    "label": {"S2": 9, "end": -1}, "template": "ABBA"
// Throws Error naming the line and the field; so where a pair's prompts have not as many tokens.
std::vector<PromptPair> parse_prompt_pairs(std::string_view jsonl, const std::string& name,
                                           const Tokenizer* tokenizer, int64_t classes);

// {"text": ...} or {"tokens": [...]} a line; a pair's line counts as its clean prompt.
std::vector<Prompt> parse_noted_prompts(std::string_view jsonl, const std::string& name,
                                        const Tokenizer* tokenizer, int64_t classes);
TokenLists parse_prompts(std::string_view jsonl, const std::string& name,
                         const Tokenizer* tokenizer, int64_t classes);

}  // namespace elapse

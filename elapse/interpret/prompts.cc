// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/prompts.h"

#include <algorithm>
#include <functional>

#include "elapse/io/json.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

void for_each_line(std::string_view jsonl, const std::string& name,
                   const std::function<void(const Json&)>& visit) {
  int64_t found = 0;
  for (int64_t line = 1; !jsonl.empty(); ++line) {
    const std::string_view text = jsonl.substr(0, jsonl.find('\n'));
    jsonl.remove_prefix(std::min(jsonl.size(), text.size() + 1));
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    visit(Json::parse(text, fmt::format("{}: line {}", name, line)));
    ++found;
  }
  ELAPSE_CHECK(found > 0, "{}: expected a JSON object a line, found none", name);
}

const Tokenizer& tokenizer_for(const Json& value, const Tokenizer* tokenizer) {
  ELAPSE_CHECK(tokenizer != nullptr,
               "{}: expected token numbers, as the model has no tokenizer, found text",
               value.where());
  return *tokenizer;
}

int64_t token_of(const Json& value, int64_t classes) {
  const int64_t token = value.integer();
  ELAPSE_CHECK(token >= 0 && token < classes, "{}: expected a token of 0 to {}, found {}",
               value.where(), classes - 1, token);
  return token;
}

std::vector<int64_t> prompt_of(const Json& value, const Tokenizer* tokenizer, int64_t classes) {
  std::vector<int64_t> tokens;
  if (value.is_array()) {
    for (const Json& item : value.items()) tokens.push_back(token_of(item, classes));
  } else {
    const std::string text = value.text();
    const Tokenizer& encoder = tokenizer_for(value, tokenizer);
    tokens = encoder.prefix();
    const std::vector<int64_t> own = encoder.encode(text);
    tokens.insert(tokens.end(), own.begin(), own.end());
  }
  ELAPSE_CHECK(!tokens.empty(), "{}: expected at least one token, found none", value.where());
  return tokens;
}

int64_t answer_of(const Json& value, const Tokenizer* tokenizer, int64_t classes) {
  if (!value.is_text()) return token_of(value, classes);
  const std::string text = value.text();
  const Tokenizer& encoder = tokenizer_for(value, tokenizer);
  const std::vector<int64_t> tokens = encoder.encode(text);
  if (tokens.size() == 1) return tokens.front();
  std::string pieces;
  for (const int64_t token : tokens) {
    pieces += (pieces.empty() ? "" : ", ") + quote(encoder.decode(token));
  }
  fail("{}: expected a text of one token, found {} of {}{}{}", value.where(), quote(text),
       tokens.size(), pieces.empty() ? "" : ": ", pieces);
}

PromptNotes notes_of(const Json& line, int64_t length) {
  PromptNotes notes;
  if (line.has("template")) notes.group = line.text("template");
  if (!line.has("label")) return notes;
  for (const auto& [label, value] : line.at("label").members()) {
    const int64_t place = value.integer();
    ELAPSE_CHECK(place >= -length && place < length,
                 "{}: expected a position of {} to {}, found {}", value.where(), -length,
                 length - 1, place);
    notes.labels[label] = place < 0 ? place + length : place;
  }
  return notes;
}

}  // namespace

std::vector<PromptPair> parse_prompt_pairs(std::string_view jsonl, const std::string& name,
                                           const Tokenizer* tokenizer, int64_t classes) {
  std::vector<PromptPair> pairs;
  for_each_line(jsonl, name, [&](const Json& line) {
    PromptPair pair = {prompt_of(line.at("clean"), tokenizer, classes),
                       prompt_of(line.at("corrupt"), tokenizer, classes),
                       {answer_of(line.at("answer"), tokenizer, classes),
                        answer_of(line.at("wrong"), tokenizer, classes)}};
    ELAPSE_CHECK(pair.clean.size() == pair.corrupt.size(),
                 "{}: expected prompts of as many tokens, found {} in \"clean\" and {} in "
                 "\"corrupt\"",
                 line.where(), pair.clean.size(), pair.corrupt.size());
    pair.notes = notes_of(line, std::ssize(pair.clean));
    pairs.push_back(std::move(pair));
  });
  return pairs;
}

std::vector<Prompt> parse_noted_prompts(std::string_view jsonl, const std::string& name,
                                        const Tokenizer* tokenizer, int64_t classes) {
  std::vector<Prompt> prompts;
  for_each_line(jsonl, name, [&](const Json& line) {
    const char* field = line.has("tokens") ? "tokens" : line.has("clean") ? "clean" : "text";
    Prompt prompt = {prompt_of(line.at(field), tokenizer, classes)};
    prompt.notes = notes_of(line, std::ssize(prompt.tokens));
    prompts.push_back(std::move(prompt));
  });
  return prompts;
}

TokenLists parse_prompts(std::string_view jsonl, const std::string& name,
                         const Tokenizer* tokenizer, int64_t classes) {
  TokenLists lists;
  for (Prompt& prompt : parse_noted_prompts(jsonl, name, tokenizer, classes)) {
    lists.push_back(std::move(prompt.tokens));
  }
  return lists;
}

}  // namespace elapse

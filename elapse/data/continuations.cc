// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/continuations.h"

#include <algorithm>

#include "elapse/core/error.h"
#include "elapse/io/json.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos;
}

std::string words_of(const Json& object, std::string_view field) {
  const Json value = object.at(field);
  std::string text = value.text();
  ELAPSE_CHECK(!is_blank(text), "{}: expected words, found {}", value.where(), quote(text));
  return text;
}

}  // namespace

std::vector<Continuation> parse_continuations(std::string_view jsonl, const std::string& name,
                                              int64_t limit) {
  std::vector<Continuation> all;
  for (int64_t line = 1; !jsonl.empty() && std::ssize(all) < limit; ++line) {
    const std::string_view text = jsonl.substr(0, jsonl.find('\n'));
    jsonl.remove_prefix(std::min(jsonl.size(), text.size() + 1));
    if (is_blank(text)) continue;
    const Json object = Json::parse(text, fmt::format("{}: line {}", name, line));
    all.push_back({words_of(object, "context"), words_of(object, "continuation")});
  }
  ELAPSE_CHECK(!all.empty(), "{}: expected a JSON object a line, found an empty file", name);
  return all;
}

}  // namespace elapse

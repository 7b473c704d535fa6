// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// A text and how it goes on, as tests of language models give them.
struct Continuation {
  std::string context;
  std::string continuation;
};

// JSON lines: an object a line with the fields "context" and "continuation"; others are ignored, as
// are empty lines. Throws Error naming `name` and the line for what is no such object, for texts
// that are empty or all space, and where there is no line at all. Lines after the first `limit`
// objects are not looked at.
std::vector<Continuation> parse_continuations(std::string_view jsonl, const std::string& name,
                                              int64_t limit = INT64_MAX);

}  // namespace elapse

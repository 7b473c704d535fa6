// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"

// What the methods that read one prompt of a file share.
namespace elapse {

struct OnePrompt : InspectOptions {
  int64_t line = 1;
};

inline CLI::App* add_one_prompt_method(CLI::App& inspect, const char* name, const char* about,
                                       const std::string& example, OnePrompt& options,
                                       const char* prompts) {
  CLI::App* verb = add_method(inspect, name, about, example, options, prompts);
  verb->add_option("--line", options.line, "Which of the prompts, counted from 1")
      ->check(whole_number(1));
  return verb;
}

inline constexpr const char* kOfPairs =
    "Pairs of prompts, a JSON object a line: clean, corrupt, answer, wrong";
inline constexpr const char* kOfPrompts = "Prompts, a JSON object a line: text, or tokens";

template <class T>
const T& chosen(const std::vector<T>& list, const OnePrompt& options) {
  ELAPSE_CHECK(options.line <= std::ssize(list), "{}: prompt {} is asked for, but it has {}",
               options.prompts, options.line, list.size());
  return list[static_cast<size_t>(options.line - 1)];
}

}  // namespace elapse

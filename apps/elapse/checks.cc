// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/checks.h"

#include <fmt/format.h>

#include <charconv>

#include "elapse/io/messages.h"

namespace elapse {
namespace {

template <class Integer>
CLI::Validator number(Integer least, Integer most) {
  const std::string expected = most == std::numeric_limits<int64_t>::max()
                                   ? fmt::format("of at least {}", least)
                                   : fmt::format("from {} to {}", least, most);
  const auto complaint = [=](std::string& text) {
    Integer value{};
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    // CLI11 would read 010 as 8.
    const bool octal = text.size() > 1 && text[text.front() == '-' ? 1 : 0] == '0';
    const bool whole = error == std::errc() && rest == text.data() + text.size() && !octal;
    if (!whole || value < least || value > most) {
      return fmt::format("expected a whole number {}, found {}", expected, quote(text));
    }
    return std::string();
  };
  return {complaint, ""};
}

}  // namespace

CLI::Validator not_empty() {
  const auto complaint = [](std::string& path) {
    return std::string(path.empty() ? "expected a path, found an empty one" : "");
  };
  return {complaint, ""};
}

CLI::Validator whole_number(int64_t least, int64_t most) { return number(least, most); }

CLI::Validator seed() { return number(uint64_t{0}, UINT64_MAX); }

}  // namespace elapse

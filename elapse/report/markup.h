// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace elapse {

// `text` for HTML and XML content and quoted attributes. Bytes that are not UTF-8 and characters
// XML forbids (a token of a byte-level vocabulary holds both) become U+FFFD.
std::string escape_markup(std::string_view text);

// `text` on one line of a terminal: control characters become spaces, broken UTF-8 U+FFFD.
std::string printable(std::string_view text);

// Columns `text` takes in a terminal: 2 for East Asian wide characters and emoji, 0 for combining
// marks, 1 for the rest, ✓ and ✗ among them.
int display_width(std::string_view text);

}  // namespace elapse

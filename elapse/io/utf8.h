// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string_view>

namespace elapse {

// Bytes of the well-formed UTF-8 character that `text` (not empty) begins with, 0 where there is
// none: Unicode 15, table 3-7, so overlong forms, surrogates and values past U+10FFFF are none.
size_t utf8_character(std::string_view text);

bool is_utf8(std::string_view text);

}  // namespace elapse

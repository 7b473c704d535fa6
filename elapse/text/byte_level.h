// SPDX-License-Identifier: Apache-2.0
// How files of byte-level tokenizers write bytes as text (GPT-2's encoder.py): a byte that is a
// printable character of Latin-1 stands as that character, the 68 others as U+0100 and on, in their
// order. A space is U+0120, a newline U+010A.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace elapse {

std::string byte_level_text(std::string_view bytes);

// The bytes that `text` (UTF-8) writes; nothing where one of its characters stands for no byte.
std::optional<std::string> byte_level_bytes(std::string_view text);

}  // namespace elapse

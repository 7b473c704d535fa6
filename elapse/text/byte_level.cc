// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/byte_level.h"

#include <array>
#include <cstdint>

namespace elapse {
namespace {

constexpr unsigned kCharacters = 0x100 + 68;  // from U+0000 to the last that stands for a byte

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Tables {
  std::array<uint16_t, 256> character{};
  std::array<int16_t, kCharacters> byte{};  // -1: stands for none

  constexpr Tables() {
    byte.fill(-1);
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      const unsigned c = stands_for_itself(b) ? b : next++;
      character[b] = static_cast<uint16_t>(c);
      byte[c] = static_cast<int16_t>(b);
    }
  }
};

constexpr Tables kTables;

void append_character(std::string& text, unsigned c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else {
    text += static_cast<char>(0xC0 | c >> 6);
    text += static_cast<char>(0x80 | (c & 0x3F));
  }
}

// Takes a character of at most two bytes off `text`; kCharacters for any other.
unsigned take_character(std::string_view& text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const bool two = text.size() >= 2 && byte(0) >= 0xC2 && byte(0) <= 0xDF;
  unsigned c = byte(0) < 0x80 ? byte(0) : kCharacters;
  if (two) c = (byte(0) & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
  text.remove_prefix(two ? 2 : 1);
  return c;
}

}  // namespace

std::string byte_level_text(std::string_view bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char b : bytes) {
    append_character(text, kTables.character[static_cast<unsigned char>(b)]);
  }
  return text;
}

std::optional<std::string> byte_level_bytes(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const unsigned c = take_character(text);
    if (c >= kCharacters || kTables.byte[c] < 0) return std::nullopt;
    bytes += static_cast<char>(kTables.byte[c]);
  }
  return bytes;
}

}  // namespace elapse

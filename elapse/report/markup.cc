// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/markup.h"

#include <algorithm>
#include <array>

namespace elapse {
namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr std::string_view kReplacementUtf8 = "\xEF\xBF\xBD";

struct Character {
  char32_t code;
  std::string_view bytes;  // as they stand in the text; U+FFFD's where they are not UTF-8
};

size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

bool is_scalar_value(char32_t code, size_t length) {
  constexpr std::array<char32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code >= kSmallest[length] && code <= 0x10FFFF && !surrogate;
}

// The first character of `text`, which is not empty, and removes it. A broken sequence costs one
// byte.
Character take_character(std::string_view& text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = sequence_length(lead);
  bool valid = length > 0 && length <= text.size();
  char32_t code = length == 1 ? lead : lead & (0x7Fu >> length);
  for (size_t i = 1; valid && i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    valid = (byte & 0xC0) == 0x80;
    code = (code << 6) | (byte & 0x3F);
  }
  valid = valid && is_scalar_value(code, length);
  const std::string_view bytes = text.substr(0, valid ? length : 1);
  text.remove_prefix(bytes.size());
  return valid ? Character{code, bytes} : Character{kReplacement, kReplacementUtf8};
}

bool is_control(char32_t code) { return code < 0x20 || (code >= 0x7F && code < 0xA0); }

bool xml_allows(char32_t code) {
  if (is_control(code)) return code == '\n' || code == '\t';
  return code != 0xFFFE && code != 0xFFFF;
}

std::string_view escaped(const Character& c) {
  switch (c.code) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return xml_allows(c.code) ? c.bytes : kReplacementUtf8;
  }
}

struct Interval {
  char32_t first, last;
};

template <size_t kCount>
bool contains(const std::array<Interval, kCount>& intervals, char32_t code) {
  return std::any_of(intervals.begin(), intervals.end(),
                     [code](Interval i) { return code >= i.first && code <= i.last; });
}

// The blocks of UAX #11 (East Asian Width) and the combining marks that tables of results meet.
int width_of(char32_t code) {
  constexpr std::array<Interval, 5> kZero = {
      {{0x300, 0x36F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}}};
  constexpr std::array<Interval, 12> kWide = {{{0x1100, 0x115F},
                                               {0x2E80, 0x303E},
                                               {0x3041, 0xA4CF},
                                               {0xA960, 0xA97C},
                                               {0xAC00, 0xD7A3},
                                               {0xF900, 0xFAFF},
                                               {0xFE30, 0xFE6F},
                                               {0xFF00, 0xFF60},
                                               {0xFFE0, 0xFFE6},
                                               {0x1F300, 0x1F64F},
                                               {0x1F680, 0x1F9FF},
                                               {0x20000, 0x3FFFD}}};
  if (contains(kZero, code)) return 0;
  return contains(kWide, code) ? 2 : 1;
}

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) out += escaped(take_character(text));
  return out;
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Character c = take_character(text);
    out += is_control(c.code) ? " " : c.bytes;
  }
  return out;
}

int display_width(std::string_view text) {
  int width = 0;
  while (!text.empty()) width += width_of(take_character(text).code);
  return width;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/text_stream.h"

#include <algorithm>

#include "elapse/core/error.h"

namespace elapse {
namespace {

// Bytes of the character that this byte leads, 1 for a byte that leads none.
size_t led_bytes(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (byte >= 0xC2 && byte <= 0xDF) return 2;
  if (byte >= 0xE0 && byte <= 0xEF) return 3;
  if (byte >= 0xF0 && byte <= 0xF4) return 4;
  return 1;
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes at the end of `text` that begin a character of which more is to come.
size_t unfinished_character(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(text.size(), 3); ++back) {
    const char c = text[text.size() - back];
    if (!continues(c)) return led_bytes(c) > back ? back : 0;
  }
  return 0;
}

// The longest end of `text` with which `stop` begins, short of `stop` itself.
size_t overlap(std::string_view text, std::string_view stop) {
  size_t length = std::min(text.size(), stop.size() - 1);
  while (!text.ends_with(stop.substr(0, length))) --length;
  return length;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) ELAPSE_CHECK(!stop.empty(), "a stop string is empty");
}

std::string TextStream::push(std::string_view piece) {
  for (size_t i = 0; i < piece.size() && !stopped_; ++i) push_byte(piece[i]);
  if (stopped_) return take(pending_.size());
  const size_t clear = pending_.size() - begun_stop();
  return take(clear - unfinished_character(std::string_view(pending_).substr(0, clear)));
}

std::string TextStream::finish() { return take(pending_.size()); }

void TextStream::push_byte(char byte) {
  pending_ += byte;
  size_t ended = 0;
  for (const std::string& stop : stops_) {
    if (pending_.ends_with(stop)) ended = std::max(ended, stop.size());
  }
  stopped_ = ended > 0;
  pending_.resize(pending_.size() - ended);
}

size_t TextStream::begun_stop() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) longest = std::max(longest, overlap(pending_, stop));
  return longest;
}

std::string TextStream::take(size_t count) {
  std::string text = pending_.substr(0, count);
  pending_.erase(0, count);
  return text;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "elapse/core/error.h"

namespace elapse {
namespace {

// Characters below U+0300, whose first byte is below 0xCC, are as form C has them and never join
// the character before them. What stands between two of them can be normalised on its own.
bool may_change(char c) { return static_cast<unsigned char>(c) >= 0xCC; }
bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

void append_nfc(std::string& out, std::string_view text) {
  utf8proc_uint8_t* composed = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &composed, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  ELAPSE_CHECK(length >= 0, "cannot normalise a text: {}", utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(composed), static_cast<size_t>(length));
}

}  // namespace

std::string nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if (!may_change(text[at])) continue;
    size_t begin = at > done ? at - 1 : at;  // the character before may be joined
    while (begin > done && continues(text[begin])) --begin;
    while (at < text.size() && (may_change(text[at]) || continues(text[at]))) ++at;
    out.append(text.substr(done, begin - done));
    append_nfc(out, text.substr(begin, at - begin));
    done = at;
  }
  return out.append(text.substr(done));
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  for (const Step& step : steps_) {
    std::string next = applied(step, text);
    buffer.swap(next);
    text = buffer;
  }
  return text;
}

std::string Normalizer::applied(const Step& step, std::string_view text) {
  if (step.kind == Step::Kind::nfc) return nfc(text);
  return text.empty() ? std::string() : step.prefix + std::string(text);
}

}  // namespace elapse

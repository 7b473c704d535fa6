// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/json_writer.h"

#include <cassert>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/io/utf8.h"

namespace elapse {
namespace {

std::string escaped(char c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  const auto code = static_cast<unsigned char>(c);
  return code < 0x20 ? fmt::format("\\u{:04x}", code) : std::string(1, c);
}

}  // namespace

JsonWriter& JsonWriter::key(std::string_view key) {
  assert(!levels_.empty() && levels_.back().bracket == '{' && !after_key_);
  separate();
  write_quoted(key);
  out_ += ": ";
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view v) {
  before_value();
  write_quoted(v);
  return *this;
}

JsonWriter& JsonWriter::begin(char bracket) {
  before_value();
  out_ += bracket;
  levels_.push_back({bracket});
  return *this;
}

JsonWriter& JsonWriter::end(char bracket) {
  assert(!levels_.empty() && levels_.back().bracket == bracket - 2 && !after_key_);
  const bool on_own_line = breaks_lines() && !levels_.back().empty;
  levels_.pop_back();
  if (on_own_line) out_ += "\n" + std::string(2 * levels_.size(), ' ');
  out_ += bracket;
  return *this;
}

JsonWriter& JsonWriter::raw(std::string_view token) {
  before_value();
  out_ += token;
  return *this;
}

void JsonWriter::before_value() {
  if (levels_.empty()) {
    assert(out_.empty());
  } else if (levels_.back().bracket == '[') {
    separate();
  } else {
    assert(after_key_);
    after_key_ = false;
  }
}

void JsonWriter::separate() {
  if (!levels_.back().empty) out_ += breaks_lines() ? "," : ", ";
  if (breaks_lines()) out_ += "\n" + std::string(2 * levels_.size(), ' ');
  levels_.back().empty = false;
}

bool JsonWriter::breaks_lines() const {
  return style_ == Style::pretty && levels_.back().bracket == '{';
}

void JsonWriter::write_quoted(std::string_view v) {
  ELAPSE_CHECK(is_utf8(v), "cannot write text that is not UTF-8 as JSON: {}", quote(v));
  out_ += '"';
  for (const char c : v) out_ += escaped(c);
  out_ += '"';
}

std::string JsonWriter::text() const {
  assert(levels_.empty() && !out_.empty());
  return style_ == Style::pretty ? out_ + "\n" : out_;
}

}  // namespace elapse

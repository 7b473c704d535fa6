// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fmt/format.h>

#include <cmath>
#include <concepts>
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// Writes JSON text piece by piece, members in the order given. Numbers are the shortest that read
// back as the same value; NaN and infinities, which JSON has no number for, are null. Text must be
// UTF-8. Calls out of order (a key in an array, a value in an object without a key) are bugs and
// assert.
//
//   JsonWriter json;
//   json.begin_object().field("d_model", 24).key("limits").begin_array().value(0.5).end_array();
//   write(json.end_object().text());
class JsonWriter {
 public:
  enum class Style {
    pretty,    // a member a line, two spaces an inner level, arrays on one line
    one_line,  // for logs with a JSON text a line
  };
  explicit JsonWriter(Style style = Style::pretty) : style_(style) {}

  JsonWriter& begin_object() { return begin('{'); }
  JsonWriter& end_object() { return end('}'); }
  JsonWriter& begin_array() { return begin('['); }
  JsonWriter& end_array() { return end(']'); }
  JsonWriter& key(std::string_view key);

  JsonWriter& null() { return raw("null"); }
  JsonWriter& value(bool v) { return raw(v ? "true" : "false"); }
  JsonWriter& value(std::integral auto v) { return raw(fmt::format("{:d}", v)); }
  JsonWriter& value(std::floating_point auto v) {
    if (!std::isfinite(v)) return null();
    if (v == 0 && std::signbit(v)) return raw("-0.0");  // -0 would read back as the integer 0
    return raw(fmt::format("{}", v));
  }
  // The bare word that published configurations hold and Json reads; other readers may refuse it.
  JsonWriter& infinity() { return raw("Infinity"); }
  JsonWriter& value(std::string_view v);
  JsonWriter& value(const char* v) { return value(std::string_view(v)); }
  template <class T>
  JsonWriter& value(const std::vector<T>& items) {
    begin_array();
    for (const auto& item : items) value(item);
    return end_array();
  }

  template <class T>
  JsonWriter& field(std::string_view name, const T& v) {
    return key(name).value(v);
  }

  // The whole text, once every object and array has ended; with a newline at the end if pretty.
  std::string text() const;

 private:
  struct Level {
    char bracket;
    bool empty = true;
  };

  JsonWriter& begin(char bracket);
  JsonWriter& end(char bracket);
  JsonWriter& raw(std::string_view token);
  void before_value();
  void separate();
  bool breaks_lines() const;
  void write_quoted(std::string_view v);

  Style style_;
  std::string out_;
  std::vector<Level> levels_;
  bool after_key_ = false;
};

}  // namespace elapse

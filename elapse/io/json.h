// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <rapidjson/fwd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace elapse {

// A read-only view of a value in a parsed JSON text, which it keeps alive: copying it is cheap.
//
// Errors name the text and the field: `config.json: field "ssm_cfg.d_state": expected a positive
// integer, found "abc"`. A field that is null counts as absent, as writers of configurations mean
// it. A lookup by key takes time linear in the object's size: walk large objects with members().
class Json {
 public:
  static constexpr int kMaxDepth = 64;

  // RFC 8259, and the bare words NaN, Infinity and -Infinity that published configurations hold.
  // `name` (a file's, say) opens every error's sentence. Refuses what has no one meaning: text that
  // is no UTF-8, an object with a key twice, nesting deeper than kMaxDepth.
  static Json parse(std::string_view text, std::string name);

  bool is_null() const;
  bool is_object() const;
  bool is_array() const;
  bool is_text() const;

  // This value. Integers are written without fraction or exponent and fit 64 bits.
  int64_t integer() const;
  int64_t positive_integer() const;
  double number() const;
  bool boolean() const;
  std::string text() const;

  std::vector<Json> items() const;                            // of an array
  std::vector<std::pair<std::string, Json>> members() const;  // of an object, in its order
  std::vector<std::string> keys() const;                      // of an object, in its order

  // A field of this object.
  bool has(std::string_view key) const;
  Json at(std::string_view key) const;
  int64_t integer(std::string_view key) const { return at(key).integer(); }
  int64_t positive_integer(std::string_view key) const { return at(key).positive_integer(); }
  double number(std::string_view key) const { return at(key).number(); }
  bool boolean(std::string_view key) const { return at(key).boolean(); }
  std::string text(std::string_view key) const { return at(key).text(); }

  // The same, `fallback` where the field is absent.
  int64_t integer(std::string_view key, int64_t fallback) const;
  int64_t positive_integer(std::string_view key, int64_t fallback) const;
  double number(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string text(std::string_view key, std::string_view fallback) const;

  // What opens an error's sentence about this value: `config.json: field "a.b[2]"`.
  std::string where() const;

 private:
  struct Parsed;
  Json(std::shared_ptr<const Parsed> parsed, const rapidjson::Value* value)
      : parsed_(std::move(parsed)), value_(value) {}

  Json view(const rapidjson::Value& value) const { return {parsed_, &value}; }
  void expect(bool holds, std::string_view expected) const;
  const rapidjson::Value* find(std::string_view key) const;
  void refuse_duplicate_keys() const;

  std::shared_ptr<const Parsed> parsed_;
  const rapidjson::Value* value_;
};

}  // namespace elapse

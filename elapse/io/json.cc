// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/json.h"

#include <rapidjson/document.h>
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <algorithm>
#include <charconv>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/io/utf8.h"

namespace elapse {

using rapidjson::SizeType;
using rapidjson::Value;

struct Json::Parsed {
  std::string name;
  rapidjson::Document document;
};

namespace {

std::string_view view_of(const Value& text) { return {text.GetString(), text.GetStringLength()}; }

// Whether the whole of `text` is a `T`, which is then in `value`.
template <class T>
bool converted(std::string_view text, T& value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  return result.ec == std::errc() && result.ptr == end;
}

// Passes the reader's events on to a document, which alone would take any nesting and, by way of
// escapes, lone surrogates. Numbers come as text: RapidJSON 1.1's own conversion to exact doubles
// has undefined behaviour (on 0e54, say).
class GuardedDocument : public rapidjson::BaseReaderHandler<rapidjson::UTF8<>, GuardedDocument> {
 public:
  explicit GuardedDocument(rapidjson::Document& document) : document_(document) {}

  bool Default() { return false; }  // the events of numbers that are not text: there are none
  bool Null() { return document_.Null(); }
  bool Bool(bool v) { return document_.Bool(v); }
  bool RawNumber(const char* s, SizeType n, bool) { return number({s, n}); }
  bool String(const char* s, SizeType n, bool copy) {
    return checked_text({s, n}) && document_.String(s, n, copy);
  }
  bool Key(const char* s, SizeType n, bool copy) {
    return checked_text({s, n}) && document_.Key(s, n, copy);
  }
  bool StartObject() { return enter() && document_.StartObject(); }
  bool EndObject(SizeType count) { return leave() && document_.EndObject(count); }
  bool StartArray() { return enter() && document_.StartArray(); }
  bool EndArray(SizeType count) { return leave() && document_.EndArray(count); }

  const std::string& complaint() const { return complaint_; }

 private:
  bool checked_text(std::string_view text) {
    if (is_utf8(text)) return true;
    complaint_ = "a string that is not UTF-8: " + quote(text);
    return false;
  }
  bool number(std::string_view text) {
    int64_t integer = 0;
    if (converted(text, integer)) return document_.Int64(integer);
    double value = 0;
    if (converted(text, value)) return document_.Double(value);
    complaint_ = "a number that fits no double: " + quote(text);
    return false;
  }
  bool enter() {
    if (++depth_ <= Json::kMaxDepth) return true;
    complaint_ = fmt::format("values nested more than {} deep", Json::kMaxDepth);
    return false;
  }
  bool leave() {
    --depth_;
    return true;
  }

  rapidjson::Document& document_;
  std::string complaint_;
  int depth_ = 0;
};

void parse_into(rapidjson::Document& document, std::string_view text, const std::string& name) {
  constexpr unsigned kFlags =
      rapidjson::kParseNumbersAsStringsFlag | rapidjson::kParseNanAndInfFlag;
  // To RapidJSON a NUL is the end, and what follows it would pass unread.
  ELAPSE_CHECK(text.find('\0') == text.npos, "{}: not JSON: a NUL at byte {}", name,
               text.find('\0'));
  const auto generate = [&](rapidjson::Document& target) {
    GuardedDocument guarded(target);
    rapidjson::MemoryStream stream(text.data(), text.size());
    rapidjson::Reader reader;
    const auto result = reader.Parse<kFlags>(stream, guarded);
    ELAPSE_CHECK(guarded.complaint().empty(), "{}: not JSON that can be read: {}, at byte {}", name,
                 guarded.complaint(), result.Offset());
    ELAPSE_CHECK(!result.IsError(), "{}: not JSON: {} (at byte {})", name,
                 rapidjson::GetParseError_En(result.Code()), result.Offset());
    return true;
  };
  document.Populate(generate);
}

std::string description(const Value& value) {
  switch (value.GetType()) {
    case rapidjson::kNullType:
      return "null";
    case rapidjson::kFalseType:
      return "false";
    case rapidjson::kTrueType:
      return "true";
    case rapidjson::kObjectType:
      return "an object";
    case rapidjson::kArrayType:
      return "an array";
    case rapidjson::kStringType:
      return quote(view_of(value));
    case rapidjson::kNumberType:
      break;
  }
  if (value.IsInt64()) return fmt::format("{}", value.GetInt64());
  return fmt::format("{:#}", value.GetDouble());
}

// Writes the way from `from` to `target` into `path` as `.key[index]...`; false where there is
// none. Searching for it when an error needs it keeps views small.
bool find_path(const Value& from, const Value& target, std::string& path) {
  if (&from == &target) return true;
  const size_t length = path.size();
  const auto leads_there = [&](const Value& child, const std::string& step) {
    path += step;
    if (find_path(child, target, path)) return true;
    path.resize(length);
    return false;
  };
  if (from.IsObject()) {
    for (const auto& member : from.GetObject()) {
      if (leads_there(member.value, fmt::format(".{}", view_of(member.name)))) return true;
    }
  } else if (from.IsArray()) {
    for (SizeType i = 0; i < from.Size(); ++i) {
      if (leads_there(from[i], fmt::format("[{}]", i))) return true;
    }
  }
  return false;
}

}  // namespace

Json Json::parse(std::string_view text, std::string name) {
  auto parsed = std::make_shared<Parsed>();
  parse_into(parsed->document, text, name);
  parsed->name = std::move(name);
  const Json root(parsed, &parsed->document);
  root.refuse_duplicate_keys();
  return root;
}

void Json::refuse_duplicate_keys() const {
  if (is_array()) {
    for (const auto& item : value_->GetArray()) view(item).refuse_duplicate_keys();
  }
  if (!is_object()) return;
  std::vector<std::string_view> names;
  for (const auto& member : value_->GetObject()) {
    view(member.value).refuse_duplicate_keys();
    names.push_back(view_of(member.name));
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) fail("{}: the key {} occurs twice", where(), quote(*twice));
}

bool Json::is_null() const { return value_->IsNull(); }
bool Json::is_object() const { return value_->IsObject(); }
bool Json::is_array() const { return value_->IsArray(); }
bool Json::is_text() const { return value_->IsString(); }

int64_t Json::integer() const {
  expect(value_->IsInt64(), "an integer");
  return value_->GetInt64();
}

int64_t Json::positive_integer() const {
  expect(value_->IsInt64() && value_->GetInt64() > 0, "a positive integer");
  return value_->GetInt64();
}

double Json::number() const {
  expect(value_->IsNumber(), "a number");
  return value_->GetDouble();
}

bool Json::boolean() const {
  expect(value_->IsBool(), "true or false");
  return value_->GetBool();
}

std::string Json::text() const {
  expect(value_->IsString(), "text");
  return std::string(view_of(*value_));
}

std::vector<Json> Json::items() const {
  expect(is_array(), "an array");
  std::vector<Json> all;
  all.reserve(value_->Size());
  for (const auto& item : value_->GetArray()) all.push_back(view(item));
  return all;
}

std::vector<std::pair<std::string, Json>> Json::members() const {
  expect(is_object(), "an object");
  std::vector<std::pair<std::string, Json>> all;
  all.reserve(value_->MemberCount());
  for (const auto& member : value_->GetObject()) {
    all.emplace_back(view_of(member.name), view(member.value));
  }
  return all;
}

std::vector<std::string> Json::keys() const {
  std::vector<std::string> all;
  for (auto& [key, value] : members()) all.push_back(std::move(key));
  return all;
}

const Value* Json::find(std::string_view key) const {
  expect(is_object(), "an object");
  for (const auto& member : value_->GetObject()) {
    if (view_of(member.name) == key) return member.value.IsNull() ? nullptr : &member.value;
  }
  return nullptr;
}

bool Json::has(std::string_view key) const { return find(key) != nullptr; }

Json Json::at(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) fail("{}: expected a field {}, found none", where(), quote(key));
  return view(*value);
}

int64_t Json::integer(std::string_view key, int64_t fallback) const {
  return has(key) ? integer(key) : fallback;
}

int64_t Json::positive_integer(std::string_view key, int64_t fallback) const {
  return has(key) ? positive_integer(key) : fallback;
}

double Json::number(std::string_view key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool Json::boolean(std::string_view key, bool fallback) const {
  return has(key) ? boolean(key) : fallback;
}

std::string Json::text(std::string_view key, std::string_view fallback) const {
  return has(key) ? text(key) : std::string(fallback);
}

std::string Json::where() const {
  std::string path;
  find_path(parsed_->document, *value_, path);
  if (path.empty()) return parsed_->name;
  if (path.front() == '.') path.erase(0, 1);
  return fmt::format("{}: field {}", parsed_->name, quote(path));
}

void Json::expect(bool holds, std::string_view expected) const {
  if (!holds) fail("{}: expected {}, found {}", where(), expected, description(*value_));
}

}  // namespace elapse

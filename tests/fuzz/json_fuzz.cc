// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"

namespace {

using elapse::Json;
using elapse::JsonWriter;

void copy_number(const Json& value, JsonWriter& out) {
  try {
    out.value(value.integer());
  } catch (const elapse::Error&) {
    out.value(value.number());
  }
}

bool is_boolean(const Json& value) {
  try {
    value.boolean();
    return true;
  } catch (const elapse::Error&) {
    return false;
  }
}

void copy(const Json& value, JsonWriter& out) {
  if (value.is_null()) {
    out.null();
  } else if (value.is_text()) {
    out.value(value.text());
  } else if (value.is_array()) {
    out.begin_array();
    for (const auto& item : value.items()) copy(item, out);
    out.end_array();
  } else if (value.is_object()) {
    out.begin_object();
    for (const auto& [key, field] : value.members()) copy(field, out.key(key));
    out.end_object();
  } else if (is_boolean(value)) {
    out.value(value.boolean());
  } else {
    copy_number(value, out);
  }
}

std::string copied(const Json& value) {
  JsonWriter out;
  copy(value, out);
  return out.text();
}

}  // namespace

// What parses must come back the same from what the writer makes of it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto text = copied(Json::parse({reinterpret_cast<const char*>(data), size}, "fuzz"));
    if (copied(Json::parse(text, "copy")) != text) __builtin_trap();
  } catch (const elapse::Error& error) {
    if (std::string_view(error.what()).starts_with("copy")) __builtin_trap();
  }
  return 0;
}

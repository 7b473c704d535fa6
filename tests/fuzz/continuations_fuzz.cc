// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/data/continuations.h"
#include "elapse/io/json_writer.h"

namespace {

using elapse::Continuation;
using elapse::JsonWriter;

std::string written(const std::vector<Continuation>& all) {
  std::string lines;
  for (const Continuation& one : all) {
    JsonWriter json(JsonWriter::Style::one_line);
    json.begin_object().field("context", one.context).field("continuation", one.continuation);
    lines += json.end_object().text() + "\n";
  }
  return lines;
}

}  // namespace

// What parses must come back the same from what the writer makes of it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto lines =
        written(elapse::parse_continuations({reinterpret_cast<const char*>(data), size}, "fuzz"));
    if (written(elapse::parse_continuations(lines, "copy")) != lines) __builtin_trap();
  } catch (const elapse::Error& error) {
    if (std::string_view(error.what()).starts_with("copy")) __builtin_trap();
  }
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/interpret/edits.h"

// A value has the numbers that its shape counts, and ranges have a beginning before their end.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    for (const auto& edit :
         elapse::parse_edits({reinterpret_cast<const char*>(data), size}, "fuzz")) {
      const auto numbers = static_cast<int64_t>(edit.value.size());
      if (numbers > 0 && numbers != edit.value_shape.numel()) __builtin_trap();
      if (edit.channels.begin >= edit.channels.end) __builtin_trap();
      if (edit.states.begin >= edit.states.end) __builtin_trap();
    }
  } catch (const elapse::Error&) {
  }
  return 0;
}

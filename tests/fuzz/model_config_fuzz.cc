// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/model/config.h"

// A configuration that is accepted comes back the same from its own config.json.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using elapse::Json;
  using elapse::ModelConfig;
  try {
    const auto config =
        ModelConfig::parse(Json::parse({reinterpret_cast<const char*>(data), size}, "fuzz"));
    if (!(ModelConfig::parse(Json::parse(config.json(), "copy")) == config)) __builtin_trap();
  } catch (const elapse::Error& error) {
    if (std::string_view(error.what()).starts_with("copy")) __builtin_trap();
  }
  return 0;
}

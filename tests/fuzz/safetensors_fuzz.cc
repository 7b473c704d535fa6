// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/io/safetensors.h"
#include "tests/fuzz/touch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = elapse::SafeTensors::parse(std::as_bytes(std::span(data, size)), "fuzz");
    elapse::touch(file.tensors());
    file.at("none");
  } catch (const elapse::Error&) {
  }
  return 0;
}

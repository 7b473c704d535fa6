// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string>

#include "elapse/core/error.h"
#include "elapse/io/pytorch.h"
#include "tests/fuzz/touch.h"
#include "tests/io/builders.h"

namespace {

void parse(const std::string& bytes) {
  const elapse::Buffer buffer = elapse::buffer_of(bytes);
  try {
    elapse::touch(elapse::parse_pytorch(buffer, "fuzz"));
  } catch (const elapse::Error&) {
  }
}

}  // namespace

// The input is an archive, and it is the pickle in a sound archive, whose checksum would otherwise
// keep every mutation from the unpickler.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  parse(input);
  elapse::ZipBuilder zip;
  zip.add("m/data.pkl", input).add("m/data/0", std::string(24, 'x')).add("m/data/1", "");
  parse(zip.bytes());
  return 0;
}

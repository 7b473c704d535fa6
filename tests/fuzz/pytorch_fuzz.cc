// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/io/pytorch.h"
#include "elapse/io/unpickler.h"
#include "tests/fuzz/touch.h"

namespace {

// Lets every opcode be reached from bytes that are no archive.
class OpenHost final : public elapse::PickleHost {
 public:
  bool allows(std::string_view) const override { return true; }
  elapse::PickleValue call(std::string_view, const elapse::PickleValues& arguments) override {
    return elapse::PickleTuple{arguments};
  }
  elapse::PickleValue load_persistent(const elapse::PickleValue& id) override { return id; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    elapse::touch(elapse::parse_pytorch(bytes, "fuzz"));
  } catch (const elapse::Error&) {
  }
  try {
    OpenHost host;
    elapse::unpickle(bytes, "fuzz", host);
  } catch (const elapse::Error&) {
  }
  return 0;
}

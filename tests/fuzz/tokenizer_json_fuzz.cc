// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/text/tokenizer_file.h"

// The input is a tokenizer.json, and it is the merges beside a vocabulary. What parses must encode.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = elapse::parse_tokenizer_json(input, "fuzz");
    for (const int64_t token : tokenizer->encode("It's 12 ab abc <|end|> \xFF e\xCC\x81\n")) {
      tokenizer->decode(token);
    }
  } catch (const elapse::Error&) {
  }
  try {
    elapse::parse_gpt2_files({R"({"a": 0, "b": 1, "ab": 2})", "vocabulary"}, {input, "merges"});
    __builtin_trap();  // a vocabulary without most bytes
  } catch (const elapse::Error&) {
  }
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "elapse/core/error.h"
#include "elapse/io/weight_files.h"

// An index that is accepted names no file outside of its folder and comes back the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  elapse::ShardIndex index;
  try {
    index = elapse::parse_shard_index({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const elapse::Error&) {
    return 0;
  }
  for (const auto& [file, tensors] : index) {
    if (file == ".." || file.find('/') != file.npos || tensors.empty()) __builtin_trap();
  }
  if (elapse::parse_shard_index(elapse::shard_index_json(index, 0), "copy") != index) {
    __builtin_trap();
  }
  return 0;
}

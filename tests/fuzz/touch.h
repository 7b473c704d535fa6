// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "elapse/io/named_tensor.h"

namespace elapse {

// Reads every byte of every tensor and checks where it lies, for the sanitizers to see.
inline void touch(const std::vector<NamedTensor>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (reinterpret_cast<uintptr_t>(tensor.raw()) % static_cast<size_t>(size_of(tensor.dtype()))) {
      __builtin_trap();
    }
    const volatile auto* bytes = static_cast<const std::byte*>(tensor.raw());
    for (int64_t i = 0; i < tensor.bytes(); ++i) static_cast<void>(bytes[i]);
  }
}

}  // namespace elapse

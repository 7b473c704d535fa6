// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string_view>

namespace elapse {

// FNV-1a, 64 bits (Fowler, Noll and Vo): tells data apart, protects against nobody. To hash pieces
// one after another, give the hash so far.
inline constexpr uint64_t kFnv1aStart = 0xcbf29ce484222325U;

inline uint64_t fnv1a(std::string_view bytes, uint64_t so_far = kFnv1aStart) {
  for (const char c : bytes) so_far = (so_far ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return so_far;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "elapse/core/tensor.h"

namespace elapse::bench {

// What bounds a kernel on the host.
enum class Limit : uint8_t {
  read,          // bytes read from memory
  read_cached,   // bytes read from the last caches, where the weights of small models stay
  copy,          // bytes read and written, half of each
  multiply_f32,  // fused multiply-adds
};
inline constexpr size_t kLimits = 4;

// Reads them and does nothing else.
void read_bytes(std::span<const std::byte> bytes);

// Something that does nothing but run into one of them. Runs take a millisecond or so: on a busy
// machine the least of many short ones is an undisturbed one.
class LimitProbe {
 public:
  explicit LimitProbe(Limit limit);

  double amount() const;  // bytes or multiply-adds of one run
  void run(int threads);

 private:
  Limit limit_;
  Tensor memory_;  // (parts, floats): a run reads or copies the next part; empty for arithmetic
  int64_t runs_ = 0;
};

}  // namespace elapse::bench

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>

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

// Something that does nothing but run into one of them.
class LimitProbe {
 public:
  explicit LimitProbe(Limit limit);

  double amount() const;  // bytes or multiply-adds of one run
  void run(int threads) const;

 private:
  Limit limit_;
  Tensor memory_;  // what is read or copied; empty for arithmetic
};

}  // namespace elapse::bench

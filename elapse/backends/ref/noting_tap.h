// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <cmath>

#include "elapse/backends/ref/math.h"

namespace elapse::ref {

// A tap that notes, where `changed` is not null, whether its edit changed a value; on any thread.
template <class T>
class NotingTap {
 public:
  NotingTap(const Tap& tap, bool* changed) : tap_(tap), changed_(changed) {}

  T operator()(T value, int64_t i) const {
    const T passed = tap_(value, i);
    const bool same = passed == value || (std::isnan(passed) && std::isnan(value));
    if (changed_ != nullptr && !same) {
      std::atomic_ref(*changed_).store(true, std::memory_order_relaxed);
    }
    return passed;
  }
  T back(T gradient, int64_t i) const { return tap_.back(gradient, i); }

 private:
  TapAt<T> tap_;
  bool* changed_;
};

}  // namespace elapse::ref

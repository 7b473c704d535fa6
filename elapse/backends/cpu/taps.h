// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/tap.h"

namespace elapse::cpu {

inline float source_at(const Tap& tap, int64_t i) {
  return tap.source.data<float>()[tap.source.numel() == 1 ? 0 : i];
}

// What becomes of `value`, the i-th of its tensor; also written to the watcher.
inline float through_tap(const Tap& tap, int64_t i, float value) {
  switch (tap.op) {
    case EditOp::none:
      break;
    case EditOp::set:
      value = source_at(tap, i);
      break;
    case EditOp::add:
      value += source_at(tap, i);
      break;
    case EditOp::scale:
      value *= source_at(tap, i);
      break;
  }
  if (tap.watch) tap.watch.data<float>()[i] = value;
  return value;
}

// d edited / d unedited
inline float tap_derivative(const Tap& tap, int64_t i) {
  if (tap.op == EditOp::set) return 0;
  return tap.op == EditOp::scale ? source_at(tap, i) : 1;
}

}  // namespace elapse::cpu

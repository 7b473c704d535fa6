// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "elapse/core/tensor.h"

namespace elapse {

// What an edit does to the value v passing a named point: set: source, add: v + source,
// scale: v * source.
enum class EditOp : uint8_t { none, set, add, scale };

// One inner value of a fused kernel, seen from outside. The edit is applied first; `watch` then
// receives the value the rest of the computation uses. Neither changes the kernel's arithmetic:
// an element whose edited value equals the computed one takes the unedited path.
// The gradient of the unedited value is that of the edited one times 1 (add), source (scale) or
// 0 (set).
struct Tap {
  Tensor watch;  // shape of the value; empty: not watched
  EditOp op = EditOp::none;
  Tensor source;  // shape of the value, or one element for every place

  bool edits() const { return op != EditOp::none; }
  bool active() const { return edits() || watch; }
};

}  // namespace elapse

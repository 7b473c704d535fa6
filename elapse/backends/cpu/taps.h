// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>

#include "elapse/ops/tap.h"

namespace elapse::cpu {

// Elements of these rows, channels and states, half-open.
struct TapBox {
  int64_t row_begin, row_end;
  int64_t channel_begin, channel_end;
  int64_t state_begin = 0, state_end = 1;

  bool meets(const TapPart& part) const {
    return part.meets(row_begin, row_end, channel_begin, channel_end, state_begin, state_end);
  }
};

// Whether the tap may have to do with elements of the box.
inline bool edits(const Tap& tap, const TapBox& box) {
  return std::any_of(tap.edits.begin(), tap.edits.end(),
                     [&](const TapEdit& edit) { return box.meets(edit.part); });
}
inline bool meets_forward(const Tap& tap, const TapBox& box) {
  return (tap.watch && box.meets(tap.watched)) || edits(tap, box);
}
inline bool meets_backward(const Tap& tap, const TapBox& box) {
  return (tap.gradient && box.meets(tap.graded)) || edits(tap, box);
}

inline float source_at(const TapEdit& edit, int64_t place) {
  return edit.source.data<float>()[edit.source.numel() == 1 ? 0 : place];
}

inline void put(const Tensor& into, int64_t place, float value) {
  if (place >= 0) into.data<float>()[place] = value;
}

// What becomes of `value`, the i-th of its tensor; also written to the watcher.
inline float through_tap(const Tap& tap, int64_t i, float value) {
  for (const TapEdit& edit : tap.edits) {
    const int64_t place = edit.part.place(i);
    if (place < 0) continue;
    const float source = source_at(edit, place);
    if (edit.op == EditOp::set) value = source;
    else if (edit.op == EditOp::add) value += source;
    else value *= source;
  }
  if (tap.watch) put(tap.watch, tap.watched.place(i), value);
  return value;
}

// The gradient of the unedited value from that of the edited one, which is also written down.
inline float back_through_tap(const Tap& tap, int64_t i, float gradient) {
  if (tap.gradient) put(tap.gradient, tap.graded.place(i), gradient);
  for (auto edit = tap.edits.rbegin(); edit != tap.edits.rend(); ++edit) {
    const int64_t place = edit->part.place(i);
    if (place < 0 || edit->op == EditOp::add) continue;
    gradient *= edit->op == EditOp::set ? 0 : source_at(*edit, place);
  }
  return gradient;
}

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "elapse/core/tensor.h"

namespace elapse {

// What an edit does to the value v passing a named point: set: source, add: v + source,
// scale: v * source, project_out: v - (v.u / u.u) u, with the source's row u, along the channels
// (for values between operations alone: inside a kernel no token's channels are ever together).
enum class EditOp : uint8_t { none, set, add, scale, project_out };

// A part of a value (rows, channels) or (rows, channels, states): some rows, a range of channels
// and one of states. A tensor that holds the part has one row for each of `row_of`'s numbers.
struct TapPart {
  Tensor row_of;  // (rows) i64: the part's row that each row of the value is, -1: none; empty: each
                  // row is its own
  int64_t rows = 0;                  // of the part: those of the value without `row_of`
  int64_t channels = 0, states = 1;  // of the value; no channels: the part is the whole value
  int64_t first_channel = 0, channel_count = 0;
  int64_t first_state = 0, state_count = 1;

  bool is_whole() const { return channels == 0; }
  // For kernels in host memory. Where the value's i-th element stands in the part; -1: not there.
  int64_t place(int64_t i) const {
    if (is_whole()) return i;
    const int64_t state = i % states - first_state, channel = i / states % channels - first_channel;
    const int64_t row = part_row(i / states / channels);
    const bool inside =
        row >= 0 && channel >= 0 && channel < channel_count && state >= 0 && state < state_count;
    return inside ? (row * channel_count + channel) * state_count + state : -1;
  }
  int64_t part_row(int64_t row) const { return row_of ? row_of.data<int64_t>()[row] : row; }
  // Whether elements of these rows, channels and states, half-open, may be in the part.
  bool meets(int64_t row_begin, int64_t row_end, int64_t channel_begin, int64_t channel_end,
             int64_t state_begin, int64_t state_end) const;
};

struct TapEdit {
  EditOp op = EditOp::none;
  Tensor source;  // the part's shape, or one element for every place; project_out: the part's rows
  TapPart part = {};
};

// One inner value of a fused kernel, seen from outside. Edits come first, in their order; `watch`
// then receives the value the rest of the computation uses. Neither changes the kernel's
// arithmetic: an element whose edited value equals the computed one takes the unedited path.
// Backward, `gradient` receives the gradient of the edited value; that of the unedited one is it
// times 1 (add), source (scale) or 0 (set).
struct Tap {
  Tensor watch = {};  // shape of its part; empty: not watched
  TapPart watched = {};
  std::vector<TapEdit> edits = {};
  Tensor gradient = {};  // shape of its part; empty: not wanted
  TapPart graded = {};

  bool is_edited() const { return !edits.empty(); }
  bool is_active_forward() const { return is_edited() || watch; }
  bool is_active_backward() const { return is_edited() || gradient; }
};

}  // namespace elapse

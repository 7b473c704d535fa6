// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <vector>

#include "elapse/backends/cpu/blocks.h"

namespace elapse::cpu {

// Tensors walked together over one shape, axes of size 1 broadcasting: as few rows as their
// strides allow, in each of which a tensor's elements follow one another or are all the same one.
template <size_t kTensors>
class StridedRows {
 public:
  using Offsets = std::array<int64_t, kTensors>;

  StridedRows(const Shape& shape, const std::array<const Tensor*, kTensors>& tensors) {
    int axis = shape.rank() - 1;
    while (axis >= 0 && shape[axis] == 1) --axis;
    if (axis >= 0) start_row(shape[axis], strides_of(tensors, axis));
    for (--axis; axis >= 0; --axis) {
      if (shape[axis] != 1) add_axis(shape[axis], strides_of(tensors, axis));
    }
  }

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  // Of tensor k within a row, in elements: 0 or 1.
  int64_t step(size_t k) const { return steps_[k]; }
  // Where row r of each tensor begins.
  Offsets offsets(int64_t r) const {
    Offsets at{};
    for (const Axis& axis : axes_) {
      for (size_t k = 0; k < kTensors; ++k) at[k] += r % axis.size * axis.strides[k];
      r /= axis.size;
    }
    return at;
  }

 private:
  struct Axis {
    int64_t size;
    Offsets strides;
  };

  static Offsets strides_of(const std::array<const Tensor*, kTensors>& tensors, int axis) {
    Offsets strides{};
    for (size_t k = 0; k < kTensors; ++k) {
      const Tensor& t = *tensors[k];
      if (t.numel() != 1 && t.dim(axis) != 1) strides[k] = t.stride(axis);
    }
    return strides;
  }

  void start_row(int64_t size, const Offsets& strides) {
    const bool fits =
        std::all_of(strides.begin(), strides.end(), [](int64_t s) { return s == 0 || s == 1; });
    if (!fits) return add_axis(size, strides);
    width_ = size;
    steps_ = strides;
  }

  // The next axis outwards: lengthens the row where every tensor's stride continues it.
  void add_axis(int64_t size, const Offsets& strides) {
    bool continues = axes_.empty() && width_ != 1;
    for (size_t k = 0; continues && k < kTensors; ++k) continues = strides[k] == steps_[k] * width_;
    if (continues) {
      width_ *= size;
    } else {
      axes_.push_back({size, strides});
      rows_ *= size;
    }
  }

  int64_t rows_ = 1;
  int64_t width_ = 1;
  Offsets steps_{};
  std::vector<Axis> axes_;  // those that are not in the row, innermost first
};

// Rows [row_begin, row_end) and columns [begin, end) of them.
struct RowBlock {
  int64_t row_begin, row_end;
  int64_t begin, end;
};

// Calls body(RowBlock) for all of `walk`, several short rows or a part of a long one at a time.
template <size_t kTensors, class Body>
void for_each_row_block(const Device& device, const StridedRows<kTensors>& walk, Body&& body) {
  const int64_t width = walk.width();
  if (width <= kBlockElements) {
    for_each_block(device, walk.rows(), rows_per_block(width), [&](int64_t begin, int64_t end) {
      body(RowBlock{begin, end, 0, width});
    });
    return;
  }
  const int64_t parts = divide_up(width, kBlockElements);
  parallel_for(walk.rows() * parts, device.threads(), [&](int64_t i) {
    const int64_t r = i / parts, begin = i % parts * kBlockElements;
    body(RowBlock{r, r + 1, begin, std::min(width, begin + kBlockElements)});
  });
}

}  // namespace elapse::cpu

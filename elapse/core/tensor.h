// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cassert>
#include <cstdint>
#include <memory>

#include "elapse/core/dtype.h"
#include "elapse/core/memory.h"
#include "elapse/core/shape.h"

namespace elapse {

// A typed, strided view of shared memory (what DLPack describes). Copying a Tensor copies the
// view, never the elements. The innermost stride is 1, or 0 where a single value is broadcast.
class Tensor {
 public:
  Tensor() = default;  // empty: no memory, `!tensor`

  static Tensor empty(Pool& pool, DType dtype, Shape shape);  // uninitialised, contiguous
  // Wraps memory that `owner` keeps alive (null: the caller does). Contiguous.
  static Tensor wrap(void* data, DType dtype, Shape shape, std::shared_ptr<const void> owner = {});

  explicit operator bool() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t stride(int i) const {  // in elements
    return strides_[static_cast<size_t>(i < 0 ? i + shape_.rank() : i)];
  }
  int64_t numel() const { return shape_.numel(); }
  int64_t bytes() const { return numel() * size_of(dtype_); }
  bool is_contiguous() const;

  template <class T>
  T* data() const {
    assert(dtype_of<T>() == dtype_);
    return static_cast<T*>(data_);
  }
  void* raw() const { return data_; }

  Tensor without_memory() const;                     // what it says of itself alone: `!tensor`
  Tensor reshape(Shape shape) const;                 // contiguous tensors only
  Tensor rows(int64_t begin, int64_t end) const;     // [begin, end) of the first axis
  Tensor columns(int64_t begin, int64_t end) const;  // [begin, end) of the last axis

 private:
  std::shared_ptr<const void> owner_;
  void* data_ = nullptr;
  DType dtype_ = DType::f32;
  Shape shape_;
  std::array<int64_t, Shape::kMaxRank> strides_{};
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/tensor.h"

#include "elapse/core/error.h"

namespace elapse {

std::string Shape::str() const {
  std::string text = "(";
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i ? ", " : "", (*this)[i]);
  return text + ")";
}

Tensor Tensor::empty(Pool& pool, DType dtype, Shape shape) {
  auto memory = pool.allocate(shape.numel() * size_of(dtype));
  void* data = memory.get();
  return wrap(data, dtype, shape, std::move(memory));
}

Tensor Tensor::wrap(void* data, DType dtype, Shape shape, std::shared_ptr<const void> owner) {
  Tensor t;
  t.owner_ = std::move(owner);
  t.data_ = data;
  t.dtype_ = dtype;
  t.shape_ = shape;
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    t.strides_[static_cast<size_t>(i)] = stride;
    stride *= shape[i];
  }
  return t;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int i = shape_.rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && stride(i) != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

Tensor Tensor::without_memory() const {
  Tensor t = *this;
  t.owner_ = {};
  t.data_ = nullptr;
  return t;
}

Tensor Tensor::reshape(Shape shape) const {
  ELAPSE_CHECK(is_contiguous() && shape.numel() == numel(), "cannot reshape {} into {}",
               shape_.str(), shape.str());
  return wrap(data_, dtype_, shape, owner_);
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  assert(0 <= begin && begin <= end && end <= dim(0));
  Tensor t = *this;
  t.data_ = static_cast<char*>(data_) + begin * stride(0) * size_of(dtype_);
  t.shape_.set(0, end - begin);
  return t;
}

Tensor Tensor::columns(int64_t begin, int64_t end) const {
  assert(0 <= begin && begin <= end && end <= dim(-1));
  Tensor t = *this;
  t.data_ = static_cast<char*>(data_) + begin * size_of(dtype_);
  t.shape_.set(-1, end - begin);
  return t;
}

}  // namespace elapse

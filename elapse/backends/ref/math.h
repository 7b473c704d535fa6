// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cmath>

#include "elapse/core/tensor.h"
#include "elapse/ops/tap.h"

namespace elapse::ref {

// PyTorch's threshold: above it softplus(x) is x itself.
inline constexpr double kSoftplusThreshold = 20;

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}
template <class T>
T silu(T x) {
  return x * sigmoid(x);
}
template <class T>
T silu_slope(T x) {
  const T s = sigmoid(x);
  return s * (T(1) + x * (T(1) - s));
}
template <class T>
T softplus(T x) {
  return x > T(kSoftplusThreshold) ? x : std::log1p(std::exp(x));
}
template <class T>
T softplus_slope(T x) {
  return x > T(kSoftplusThreshold) ? T(1) : sigmoid(x);
}

template <class T>
T edited(EditOp op, T value, T source) {
  switch (op) {
    case EditOp::set:
      return source;
    case EditOp::add:
      return value + source;
    case EditOp::scale:
      return value * source;
    case EditOp::none:
      break;
  }
  return value;
}

// d(edited) / d(value).
template <class T>
T edit_slope(EditOp op, T source) {
  if (op == EditOp::set) return T(0);
  return op == EditOp::scale ? source : T(1);
}

// A tap read element by element; `i` is the element's place in the contiguous value.
template <class T>
class TapAt {
 public:
  explicit TapAt(const Tap& tap)
      : op_(tap.op),
        source_(tap.edits() ? tap.source.data<T>() : nullptr),
        step_(tap.edits() && tap.source.numel() != 1 ? 1 : 0),
        watch_(tap.watch ? tap.watch.data<T>() : nullptr) {}

  T operator()(T value, int64_t i) const {
    if (source_ != nullptr) value = edited(op_, value, source_[i * step_]);
    if (watch_ != nullptr) watch_[i] = value;
    return value;
  }
  T slope(int64_t i) const {
    return source_ == nullptr ? T(1) : edit_slope(op_, source_[i * step_]);
  }

 private:
  EditOp op_;
  const T* source_;
  int64_t step_;
  T* watch_;
};

// A matrix whose rows may be strided.
template <class T>
class Matrix {
 public:
  explicit Matrix(const Tensor& t) : data_(t.data<T>()), stride_(t.stride(0)) {}
  T& operator()(int64_t row, int64_t column) const { return data_[row * stride_ + column]; }
  T* row(int64_t r) const { return data_ + r * stride_; }

 private:
  T* data_;
  int64_t stride_;
};

}  // namespace elapse::ref

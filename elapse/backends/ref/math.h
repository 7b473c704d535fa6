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

// The standard normal distribution's integral up to x.
template <class T>
T normal_below(T x) {
  return std::erfc(-x * T(0.70710678118654752440)) / 2;
}
template <class T>
T gelu(T x) {
  return x * normal_below(x);
}
template <class T>
T gelu_slope(T x) {
  constexpr T kDensityAt0 = T(0.39894228040143267794);  // 1 / sqrt(2 pi)
  return normal_below(x) + x * kDensityAt0 * std::exp(-x * x / 2);
}

inline constexpr double kGeluInner = 0.79788456080286535588;  // sqrt(2 / pi)
inline constexpr double kGeluCubic = 0.044715;
template <class T>
T gelu_tanh(T x) {
  return x * (1 + std::tanh(T(kGeluInner) * (x + T(kGeluCubic) * x * x * x))) / 2;
}
template <class T>
T gelu_tanh_slope(T x) {
  const T tanh = std::tanh(T(kGeluInner) * (x + T(kGeluCubic) * x * x * x));
  const T inner_slope = T(kGeluInner) * (1 + 3 * T(kGeluCubic) * x * x);
  return (1 + tanh) / 2 + x * (1 - tanh * tanh) / 2 * inner_slope;
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
    case EditOp::project_out:  // of whole rows: pointwise.cc
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

// A tap met element by element; `i` is the element's place in the contiguous value.
template <class T>
class TapAt {
 public:
  explicit TapAt(const Tap& tap) : tap_(tap) {}

  // The value after the edits, written to the watcher.
  T operator()(T value, int64_t i) const {
    for (const TapEdit& edit : tap_.edits) {
      const int64_t at = edit.part.place(i);
      if (at >= 0) value = edited(edit.op, value, source(edit, at));
    }
    if (tap_.watch) put(tap_.watch, tap_.watched.place(i), value);
    return value;
  }

  // The gradient of the unedited value from that of the edited one, which is written down.
  T back(T gradient, int64_t i) const {
    if (tap_.gradient) put(tap_.gradient, tap_.graded.place(i), gradient);
    for (auto edit = tap_.edits.rbegin(); edit != tap_.edits.rend(); ++edit) {
      const int64_t at = edit->part.place(i);
      if (at >= 0) gradient *= edit_slope(edit->op, source(*edit, at));
    }
    return gradient;
  }

 private:
  static T source(const TapEdit& edit, int64_t at) {
    return edit.source.data<T>()[edit.source.numel() == 1 ? 0 : at];
  }
  static void put(const Tensor& into, int64_t at, T value) {
    if (at >= 0) into.data<T>()[at] = value;
  }

  const Tap& tap_;
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

// SPDX-License-Identifier: Apache-2.0
// What the tests of operations share: guarded operands, the comparison of other backends in float
// with ref in double, and gradients against finite differences.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "elapse/core/convert.h"
#include "elapse/core/random.h"
#include "elapse/ops/device.h"
#include "tests/can_open.h"

namespace elapse::op_test {

inline constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
inline constexpr double kBf16Epsilon = 1.0 / 128;
inline constexpr int kThreadCounts[] = {1, 2, 3, 7};

// Visits the offset, in elements from data, of every element of a strided tensor in index order.
template <class Visit>
void for_each_offset(const Tensor& t, Visit&& visit) {
  if (t.numel() == 0) return;
  const int64_t width = t.dim(-1), step = t.stride(-1);
  for (int64_t row = 0; row < t.numel() / width; ++row) {
    int64_t rest = row, offset = 0;
    for (int axis = t.shape().rank() - 2; axis >= 0; --axis) {
      offset += rest % t.dim(axis) * t.stride(axis);
      rest /= t.dim(axis);
    }
    for (int64_t i = 0; i < width; ++i) visit(offset + i * step);
  }
}

inline void* place(const Tensor& t, int64_t offset) {
  return static_cast<std::byte*>(t.raw()) + offset * size_of(t.dtype());
}

inline double get(const Tensor& t, int64_t offset) {
  if (t.dtype() == DType::f32) return t.data<float>()[offset];
  if (t.dtype() == DType::f64) return t.data<double>()[offset];
  if (t.dtype() == DType::i64) return static_cast<double>(t.data<int64_t>()[offset]);
  double value;
  convert_elements(t.dtype(), place(t, offset), DType::f64, &value, 1);
  return value;
}

inline void put(const Tensor& t, int64_t offset, double value) {
  if (t.dtype() == DType::f32) t.data<float>()[offset] = static_cast<float>(value);
  else if (t.dtype() == DType::f64) t.data<double>()[offset] = value;
  else if (t.dtype() == DType::i64) t.data<int64_t>()[offset] = static_cast<int64_t>(value);
  else convert_elements(DType::f64, &value, t.dtype(), place(t, offset), 1);
}

// The nearest number that the dtype has.
inline double rounded_to(DType dtype, double value) {
  uint64_t rounded;
  convert_elements(DType::f64, &value, dtype, &rounded, 1);
  convert_elements(dtype, &rounded, DType::f64, &value, 1);
  return value;
}

inline std::vector<double> values(const Tensor& t) {
  std::vector<double> out;
  for_each_offset(t, [&](int64_t offset) { out.push_back(get(t, offset)); });
  return out;
}

// A tensor between guard bytes, `margin` elements of them: by default it is off any vector's
// alignment. Each row of its last axis is followed by `row_padding` elements that nobody may write.
class Guarded {
 public:
  static constexpr int64_t kUnaligned = 37, kAligned = 64;

  Guarded(MemorySource& memory, DType dtype, Shape shape, int64_t row_padding = 0,
          int64_t margin = kUnaligned)
      : margin_(margin) {
    Shape padded = shape;
    padded.set(-1, shape[-1] + row_padding);
    size_ = static_cast<size_t>((padded.numel() + 2 * margin) * size_of(dtype));
    bytes_ = {static_cast<uint8_t*>(memory.allocate(static_cast<int64_t>(size_))),
              [&memory](uint8_t* bytes) { memory.release(bytes); }};
    std::fill_n(bytes_.get(), size_, kGuard);
    uint8_t* data = bytes_.get() + margin * size_of(dtype);
    tensor_ = Tensor::wrap(data, dtype, padded, bytes_).columns(0, shape[-1]);
  }

  const Tensor& tensor() const { return tensor_; }

  bool intact() const {
    std::vector<uint8_t> rest = bytes();
    const int64_t size = size_of(tensor_.dtype());
    for_each_offset(tensor_, [&](int64_t offset) {
      std::memset(rest.data() + (margin_ + offset) * size, kGuard, static_cast<size_t>(size));
    });
    return std::all_of(rest.begin(), rest.end(), [](uint8_t b) { return b == kGuard; });
  }

  std::vector<uint8_t> bytes() const { return {bytes_.get(), bytes_.get() + size_}; }

 private:
  static constexpr uint8_t kGuard = 0xA5;

  int64_t margin_;
  std::shared_ptr<uint8_t> bytes_;
  size_t size_;
  Tensor tensor_;
};

// The tensors of one call. Two sets of the same seed, asked for the same tensors in the same
// order, hold the same numbers whatever their dtypes: all are floats, and numbers of `narrow` where
// that is the dtype of activations. In a set of doubles activations are doubles.
class Operands {
 public:
  explicit Operands(DType dtype, uint64_t seed = 1, MemorySource& memory = host_memory(),
                    DType narrow = DType::f32, int64_t margin = Guarded::kUnaligned)
      : memory_(memory), dtype_(dtype), narrow_(narrow), margin_(margin), random_(seed) {}

  Tensor input(Shape shape, double lo = -1, double hi = 1, int64_t row_padding = 0) {
    return keep(inputs_, Guarded(memory_, dtype_, shape, row_padding, margin_), lo, hi, DType::f32);
  }
  Tensor activation(Shape shape, double lo = -1, double hi = 1, int64_t row_padding = 0) {
    return keep(inputs_, Guarded(memory_, activations(), shape, row_padding, margin_), lo, hi,
                narrow_);
  }
  // What a state keeps of activations: their numbers, in float32.
  Tensor kept_activation(Shape shape, double lo = -1, double hi = 1, int64_t row_padding = 0) {
    return keep(inputs_, Guarded(memory_, dtype_, shape, row_padding, margin_), lo, hi, narrow_);
  }
  // Starts as NaN: what is not assigned will not compare equal.
  Tensor assigned(Shape shape, int64_t row_padding = 0) {
    return assigned_of(dtype_, shape, row_padding);
  }
  Tensor assigned_activation(Shape shape, int64_t row_padding = 0) {
    return assigned_of(activations(), shape, row_padding);
  }
  Tensor assigned_of(DType dtype, Shape shape, int64_t row_padding) {
    outputs_.emplace_back(memory_, dtype, shape, row_padding, margin_);
    const Tensor t = outputs_.back().tensor();
    for_each_offset(t, [&](int64_t offset) { put(t, offset, std::nan("")); });
    return t;
  }
  // What one operation leaves for another in an order of its own: not compared. Starts as NaN.
  Tensor handed_on(Shape shape) {
    inputs_.emplace_back(memory_, dtype_, shape);
    const Tensor t = inputs_.back().tensor();
    for_each_offset(t, [&](int64_t offset) { put(t, offset, std::nan("")); });
    return t;
  }
  // Starts with numbers that must still be part of the result.
  Tensor accumulated(Shape shape, int64_t row_padding = 0) {
    return keep(outputs_, Guarded(memory_, dtype_, shape, row_padding, margin_), -1, 1, DType::f32);
  }
  Tensor output_of(DType dtype, Shape shape) {
    outputs_.emplace_back(memory_, dtype, shape);
    return outputs_.back().tensor();
  }
  Tensor indices(const std::vector<int64_t>& index) {
    inputs_.emplace_back(memory_, DType::i64, Shape{static_cast<int64_t>(index.size())});
    const Tensor t = inputs_.back().tensor();
    std::copy(index.begin(), index.end(), t.data<int64_t>());
    return t;
  }

  DType dtype() const { return dtype_; }
  Random& random() { return random_; }
  const std::vector<Guarded>& outputs() const { return outputs_; }

  void expect_guards_intact() const {
    for (const auto* list : {&inputs_, &outputs_}) {
      for (size_t i = 0; i < list->size(); ++i) {
        EXPECT_TRUE((*list)[i].intact())
            << (list == &inputs_ ? "input " : "output ") << i << " was written outside";
      }
    }
  }

 private:
  DType activations() const { return dtype_ == DType::f64 ? DType::f64 : narrow_; }
  Tensor keep(std::vector<Guarded>& list, Guarded guarded, double lo, double hi, DType numbers) {
    list.push_back(std::move(guarded));
    const Tensor t = list.back().tensor();
    for_each_offset(
        t, [&](int64_t offset) { put(t, offset, rounded_to(numbers, random_.uniform(lo, hi))); });
    return t;
  }

  MemorySource& memory_;
  DType dtype_, narrow_;
  int64_t margin_;
  Random random_;
  std::vector<Guarded> inputs_;
  std::vector<Guarded> outputs_;
};

// |actual - expected| <= tolerance * max(1, |expected|), element by element; NaN equals NaN.
inline void expect_close(const Tensor& actual, const Tensor& expected, double tolerance,
                         const std::string& what) {
  const std::vector<double> a = values(actual), e = values(expected);
  ASSERT_EQ(a.size(), e.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == e[i] || (std::isnan(a[i]) && std::isnan(e[i]))) continue;
    ASSERT_LE(std::abs(a[i] - e[i]), tolerance * std::max(1.0, std::abs(e[i])))
        << what << ", element " << i << ": " << a[i] << " for " << e[i];
  }
}

// Runs `call(device, operands)` on cpu in float and on ref in double and compares every output;
// then asks for the same bits from other numbers of threads.
template <class Call>
void expect_cpu_agrees(Call&& call, double tolerance, uint64_t seed = 1) {
  Device ref("ref", 1);
  Operands expected(DType::f64, seed);
  call(ref, expected);
  std::vector<std::vector<uint8_t>> first;
  for (const int threads : kThreadCounts) {
    Device cpu("cpu", threads);
    Operands actual(DType::f32, seed);
    call(cpu, actual);
    actual.expect_guards_intact();
    for (size_t i = 0; i < actual.outputs().size(); ++i) {
      const std::string what = "output " + std::to_string(i);
      const Guarded& output = actual.outputs()[i];
      if (threads == kThreadCounts[0]) {
        expect_close(output.tensor(), expected.outputs()[i].tensor(), tolerance, what);
        first.push_back(output.bytes());
      } else {
        EXPECT_EQ(output.bytes(), first[i]) << what << " differs with " << threads << " threads";
      }
    }
  }
}

// Runs `call(device, operands)` on cuda, where there is one, in float and with activations of
// `narrow`, and on ref in double and compares every output, those of bf16 within its rounding too;
// then asks for the same bits again.
template <class Call>
void expect_cuda_agrees(Call&& call, double tolerance, uint64_t seed = 1, DType narrow = DType::f32,
                        int64_t margin = Guarded::kUnaligned) {
  static const bool is_here = can_open("cuda");
  if (!is_here) return;
  Device ref("ref", 1), cuda("cuda");
  Operands expected(DType::f64, seed, host_memory(), narrow);
  call(ref, expected);
  std::vector<std::vector<uint8_t>> first;
  for (const bool again : {false, true}) {
    Operands actual(DType::f32, seed, cuda.shared_memory(), narrow, margin);
    call(cuda, actual);
    cuda.synchronize();
    actual.expect_guards_intact();
    for (size_t i = 0; i < actual.outputs().size(); ++i) {
      const std::string what = "output " + std::to_string(i) + " of cuda";
      const Guarded& output = actual.outputs()[i];
      if (again) {
        EXPECT_EQ(output.bytes(), first[i]) << what << " differs the second time";
      } else {
        const bool is_bf16 = output.tensor().dtype() == DType::bf16;
        expect_close(output.tensor(), expected.outputs()[i].tensor(),
                     tolerance + (is_bf16 ? kBf16Epsilon : 0), what);
        first.push_back(output.bytes());
      }
    }
  }
}

// On cuda in bf16, on tensors aligned for vectors and on others.
template <class Call>
void expect_cuda_agrees_in_bf16(Call&& call, double tolerance) {
  for (const int64_t margin : {Guarded::kUnaligned, Guarded::kAligned}) {
    expect_cuda_agrees(call, tolerance, 1, DType::bf16, margin);
  }
}

// On cpu and on cuda, each as it is built in and finds what it runs on.
template <class Call>
void expect_backends_agree(Call&& call, double tolerance, uint64_t seed = 1) {
  static const bool has_cpu = can_open("cpu");
  if (has_cpu) expect_cpu_agrees(call, tolerance, seed);
  expect_cuda_agrees(call, tolerance, seed);
}

// sum of y * weight: turns an output into the scalar whose gradient of y is `weight`.
inline double weighted_sum(const Tensor& y, const Tensor& weight) {
  const std::vector<double> a = values(y), b = values(weight);
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// `gradient` against central differences of loss() as each element of `value` (f64) moves.
template <class Loss>
void expect_gradient(const Tensor& value, const Tensor& gradient, Loss&& loss,
                     const std::string& what, double tolerance = 1e-7) {
  ASSERT_EQ(value.dtype(), DType::f64);
  const std::vector<double> g = values(gradient);
  size_t i = 0;
  for_each_offset(value, [&](int64_t offset) {
    constexpr double kStep = 1e-5;
    double& x = value.data<double>()[offset];
    const double saved = x;
    x = saved + kStep;
    const double above = loss();
    x = saved - kStep;
    const double below = loss();
    x = saved;
    const double expected = (above - below) / (2 * kStep);
    EXPECT_NEAR(g[i], expected, tolerance * std::max(1.0, std::abs(expected)))
        << what << ", element " << i;
    ++i;
  });
}

}  // namespace elapse::op_test

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace elapse {

// The sizes of a tensor, outermost first. At most kMaxRank of them, kept in place.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }

  int rank() const { return rank_; }
  // Negative `i` counts from the end: shape[-1] is the innermost size.
  int64_t operator[](int i) const {
    const int k = i < 0 ? i + rank_ : i;
    assert(k >= 0 && k < rank_);
    return dims_[static_cast<size_t>(k)];
  }
  void push_back(int64_t d) {
    assert(rank_ < kMaxRank);
    dims_[static_cast<size_t>(rank_++)] = d;
  }
  void set(int i, int64_t d) { dims_[static_cast<size_t>(i < 0 ? i + rank_ : i)] = d; }

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  bool operator==(const Shape& other) const { return rank_ == other.rank_ && dims_ == other.dims_; }

  std::string str() const;  // "(2, 37, 64)"

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace elapse

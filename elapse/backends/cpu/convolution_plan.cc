// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cpu/convolution_plan.h"

#include <algorithm>
#include <complex>
#include <map>
#include <numbers>

namespace elapse::cpu {
namespace {

// Products of two of 2 sqrt(size) roots: sines are slow.
std::vector<float> roots_of_unity(int64_t size) {
  using Complex = std::complex<double>;
  const auto root = [&](int64_t k) {
    return std::polar(1.0,
                      -2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(size));
  };
  constexpr int64_t kFew = 64;
  std::vector<Complex> few;
  for (int64_t k = 0; k < kFew; ++k) few.push_back(root(k));
  std::vector<float> roots(static_cast<size_t>(2 * size));
  Complex first;
  for (int64_t k = 0; k < size; ++k) {
    if (k % kFew == 0) first = root(k);
    const Complex w = first * few[static_cast<size_t>(k % kFew)];
    roots[static_cast<size_t>(2 * k)] = static_cast<float>(w.real());
    roots[static_cast<size_t>(2 * k + 1)] = static_cast<float>(w.imag());
  }
  return roots;
}

}  // namespace

int64_t transform_size(int64_t count) {
  int64_t size = 4;
  while (size < count) size *= 2;
  return size >= 8 && size / 4 * 3 >= count ? size / 4 * 3 : size;
}

int64_t transform_operations(int64_t size) {
  if (size % 3 == 0) return 3 * transform_operations(size / 3) + size / 3 * 28;
  if (size <= 4) return size == 2 ? 4 : 16;
  return 4 * transform_operations(size / 4) + size / 4 * 34;
}

std::vector<ConvolutionGroup> convolution_groups(const Sequences& seqs,
                                                 const std::vector<int64_t>& listed,
                                                 int64_t filter_len) {
  std::map<int64_t, ConvolutionGroup> by_size;
  for (const int64_t s : listed) {
    const int64_t len = seqs.lengths[static_cast<size_t>(s)];
    if (len == 0) continue;
    const int64_t met = std::min(len, filter_len), size = transform_size(len + met - 1);
    ConvolutionGroup& group = by_size[size];
    group.size = size;
    group.filter_len = std::max(group.filter_len, met);
    group.sequences.push_back(s);
  }
  std::vector<ConvolutionGroup> groups;
  for (auto& [size, group] : by_size) {
    group.roots = roots_of_unity(size);
    groups.push_back(std::move(group));
  }
  return groups;
}

int64_t largest_transform(const std::vector<ConvolutionGroup>& groups) {
  return groups.empty() ? 0 : groups.back().size;
}

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "elapse/core/random.h"

namespace elapse {

// What is common to the parts of the universal-AND experiment: boolean inputs x in {0,1}^d0 given
// by the indices that are on, pairs (i, j) of them, and how far a read-out of a pair's AND or XOR
// is from the truth, by how many of the two are on.

using OnList = std::vector<int64_t>;  // indices of the inputs that are 1, ascending

struct Pair {
  int64_t i = 0, j = 0;  // i < j
};

enum class PairTarget : uint8_t { and_, xor_ };
std::string_view name_of(PairTarget target);  // "AND"

// How many of the two are on.
inline constexpr int kNeither = 0, kOne = 1, kBoth = 2, kPairClasses = 3;
std::string_view name_of_pair_class(int on);  // "neither", "one", "both"

inline double truth(PairTarget target, int on) {
  return on == (target == PairTarget::and_ ? kBoth : kOne) ? 1 : 0;
}

// Exactly `ones` of d0 inputs, each set as likely as any other.
OnList draw_on(Random& random, int64_t d0, int64_t ones);
std::vector<uint8_t> as_flags(const OnList& on, int64_t d0);  // (d0)

// An error within this counts as read.
inline constexpr double kPairTolerance = 0.25;

// Errors, read minus truth, of reads of one class.
struct ReadErrors {
  int64_t count = 0;
  int64_t within = 0;  // errors of at most kPairTolerance
  double sum = 0, sum_squares = 0;
  double largest = 0;  // in size

  void add(double error);
  void add_exact(int64_t reads) { count += reads, within += reads; }
  void add(const ReadErrors& other);

  double mean() const;  // NaN where there are no reads, as the others
  double mean_square() const;
  double share_within() const;
};

using ClassErrors = std::array<ReadErrors, kPairClasses>;  // by how many are on
void add(ClassErrors& to, const ClassErrors& from);

// Row k of the inputs' matrix as numbers, for a device.
template <class T>
std::vector<T> as_rows(const std::vector<OnList>& inputs, int64_t d0) {  // (inputs, d0)
  std::vector<T> x(inputs.size() * static_cast<size_t>(d0));
  for (size_t r = 0; r < inputs.size(); ++r) {
    for (const int64_t i : inputs[r]) x[r * static_cast<size_t>(d0) + static_cast<size_t>(i)] = 1;
  }
  return x;
}

}  // namespace elapse

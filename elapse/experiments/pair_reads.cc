// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/pair_reads.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace elapse {
namespace {

double per_read(double sum, int64_t count) {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

}  // namespace

std::string_view name_of(PairTarget target) { return target == PairTarget::and_ ? "AND" : "XOR"; }

std::string_view name_of_pair_class(int on) {
  constexpr std::string_view kNames[] = {"neither", "one", "both"};
  return kNames[on];
}

OnList draw_on(Random& random, int64_t d0, int64_t ones) {
  OnList on;
  while (std::ssize(on) < ones) {
    const int64_t i = random.below(d0);
    const auto place = std::lower_bound(on.begin(), on.end(), i);
    if (place == on.end() || *place != i) on.insert(place, i);
  }
  return on;
}

std::vector<uint8_t> as_flags(const OnList& on, int64_t d0) {
  std::vector<uint8_t> flags(static_cast<size_t>(d0));
  for (const int64_t i : on) flags[static_cast<size_t>(i)] = 1;
  return flags;
}

void ReadErrors::add(double error) {
  ++count;
  if (std::abs(error) <= kPairTolerance) ++within;
  sum += error;
  sum_squares += error * error;
  largest = std::max(largest, std::abs(error));
}

void ReadErrors::add(const ReadErrors& other) {
  count += other.count;
  within += other.within;
  sum += other.sum;
  sum_squares += other.sum_squares;
  largest = std::max(largest, other.largest);
}

double ReadErrors::mean() const { return per_read(sum, count); }
double ReadErrors::mean_square() const { return per_read(sum_squares, count); }
double ReadErrors::share_within() const { return per_read(static_cast<double>(within), count); }

void add(ClassErrors& to, const ClassErrors& from) {
  for (size_t c = 0; c < to.size(); ++c) to[c].add(from[c]);
}

}  // namespace elapse

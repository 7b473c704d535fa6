// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "elapse/backends/cpu/dots.h"

namespace elapse::cpu {

inline constexpr int kRowsOfTile = 4;    // of the many
inline constexpr int64_t kAhead = 1536;  // bytes

// Calls tile(few, i, j, step, count) until all of the n_few rows have met rows [begin, end) of the
// many: rows i to i + few, which is a std::integral_constant<int>, with the `count` rows j,
// j + step, ...: kRowsOfTile or, in the last of them, fewer.
template <class Tile>
void for_each_tile(int64_t n_few, int64_t begin, int64_t end, Tile&& tile) {
  const auto with_all_few = [&](int64_t j, int64_t step, int64_t count) {
    int64_t i = 0;
    for (; i + 4 <= n_few; i += 4) tile(std::integral_constant<int, 4>(), i, j, step, count);
    if (i + 2 <= n_few) {
      tile(std::integral_constant<int, 2>(), i, j, step, count);
      i += 2;
    }
    if (i < n_few) tile(std::integral_constant<int, 1>(), i, j, step, count);
  };
  const int64_t step = (end - begin) / kRowsOfTile;
  for (int64_t j = begin; j < begin + step; ++j) with_all_few(j, step, kRowsOfTile);
  const int64_t left = begin + step * kRowsOfTile;
  if (left < end) with_all_few(left, 1, end - left);
}

// Row i of the few with such rows of the many gave `results`.
inline void store_tile_row(const DotsOfFewRows& args, int64_t i, int64_t j, int64_t step,
                           int64_t count, const float (&results)[kRowsOfTile]) {
  for (int64_t c = 0; c < count; ++c) {
    const int64_t at = j + c * step;
    const float bias = args.bias != nullptr ? args.bias[at] : 0.0f;
    args.out[i * args.out_few + at * args.out_many] = bias + results[c];
  }
}

// A part of dots_of_few_rows where both are of bf16.
void bf16_dots_of_few_rows(const DotsOfFewRows& args, int64_t begin, int64_t end);

}  // namespace elapse::cpu

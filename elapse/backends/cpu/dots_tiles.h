// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <hwy/base.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "elapse/backends/cpu/dots.h"

namespace elapse::cpu {

inline constexpr int kRowsOfTile = 4;    // of the many
inline constexpr int64_t kAhead = 1536;  // bytes

// Calls tile(few, many, i, j, step) until all of the n_few rows have met rows [begin, end) of the
// many: rows i to i + few with the rows j, j + step, ..., of which there are `many`: kRowsOfTile,
// or 1 of the last. Both are a std::integral_constant<int>.
template <class Tile>
void for_each_tile(int64_t n_few, int64_t begin, int64_t end, Tile&& tile) {
  const auto with_all_few = [&](auto many, int64_t j, int64_t step) {
    int64_t i = 0;
    for (; i + 4 <= n_few; i += 4) tile(std::integral_constant<int, 4>(), many, i, j, step);
    if (i + 2 <= n_few) {
      tile(std::integral_constant<int, 2>(), many, i, j, step);
      i += 2;
    }
    if (i < n_few) tile(std::integral_constant<int, 1>(), many, i, j, step);
  };
  const int64_t step = (end - begin) / kRowsOfTile;
  for (int64_t j = begin; j < begin + step; ++j) {
    with_all_few(std::integral_constant<int, kRowsOfTile>(), j, step);
  }
  for (int64_t j = begin + step * kRowsOfTile; j < end; ++j) {
    with_all_few(std::integral_constant<int, 1>(), j, 1);
  }
}

// Row i of the few with kMany rows of the many gave `results`, of which the rest say nothing.
template <int kMany>
HWY_INLINE void store_tile_row(const DotsOfFewRows& args, int64_t i, int64_t j, int64_t step,
                               const float (&results)[kRowsOfTile]) {
  for (int c = 0; c < kMany; ++c) {
    const int64_t at = j + c * step;
    const float bias = args.bias != nullptr ? args.bias[at] : 0.0f;
    args.out[i * args.out_few + at * args.out_many] = bias + results[c];
  }
}

// A part of dots_of_few_rows where both are of bf16.
void bf16_dots_of_few_rows(const DotsOfFewRows& args, int64_t begin, int64_t end);

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

#include "elapse/core/parallel.h"
#include "elapse/ops/device.h"

namespace elapse::cpu {

// Work of fewer elements is not worth a second thread.
inline constexpr int64_t kBlockElements = 16384;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many rows of `width` elements make a block.
inline int64_t rows_per_block(int64_t width) {
  return std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, width));
}

// Calls body(begin, end) or body(begin, end, block) for [0, count) cut into blocks of `size`, on
// the device's threads.
template <class Body>
void for_each_block(const Device& device, int64_t count, int64_t size, Body&& body) {
  parallel_for(divide_up(count, size), device.threads(), [&](int64_t block) {
    const int64_t begin = block * size, end = std::min(count, begin + size);
    if constexpr (std::is_invocable_v<Body&, int64_t, int64_t, int64_t>) body(begin, end, block);
    else body(begin, end);
  });
}

// The first element of row i of a matrix.
inline float* row(const Tensor& t, int64_t i) { return t.data<float>() + i * t.stride(0); }

// Calls body(e, scratch) for the first channel e of each block of `lanes` channels, on the device's
// threads, with `vectors` times `lanes` floats of scratch.
template <class Body>
void for_each_channel_block(Device& device, int64_t d_inner, int64_t lanes, int64_t vectors,
                            Body&& body) {
  const Tensor scratch = device.empty(DType::f32, {device.threads(), vectors * lanes});
  parallel_for(divide_up(d_inner, lanes), device.threads(),
               [&](int64_t block, int worker) { body(block * lanes, row(scratch, worker)); });
}

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace elapse::cuda {

// The sequence that holds this token: the last that begins there or before.
__device__ inline int64_t sequence_of_token(const int64_t* cu, int64_t n_seqs, int64_t token) {
  int64_t low = 0, high = n_seqs - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (cu[middle] <= token) low = middle;
    else high = middle - 1;
  }
  return low;
}

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>

namespace elapse {

// Counter-based random numbers, Philox4x32-10 (Salmon et al., SC 2011): the value at a position is
// a function of (seed, stream, position) alone, so that saving a generator is saving its position,
// and parallel users with different streams never share numbers.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint32_t next_u32();
  uint64_t next_u64();  // two of them, the first in the high half
  double uniform();     // [0, 1), 53 bits
  double uniform(double lo, double hi) { return lo + (hi - lo) * uniform(); }
  double normal();           // mean 0, variance 1 (Box-Muller)
  int64_t below(int64_t n);  // uniform over [0, n), without bias; n >= 1

  uint64_t position() const { return position_; }
  void seek(uint64_t position) { position_ = position; }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t position_ = 0;  // numbers of 32 bits taken so far
  uint64_t cached_block_ = ~uint64_t{0};
  std::array<uint32_t, 4> cached_{};
};

// One Philox4x32-10 block.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace elapse

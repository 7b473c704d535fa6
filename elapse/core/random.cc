// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/random.h"

#include <cassert>
#include <cmath>
#include <numbers>

namespace elapse {
namespace {

constexpr int kRounds = 10;

uint32_t low(uint64_t v) { return static_cast<uint32_t>(v); }
uint32_t high(uint64_t v) { return static_cast<uint32_t>(v >> 32); }

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t a = uint64_t{0xD2511F53U} * c[0];
    const uint64_t b = uint64_t{0xCD9E8D57U} * c[2];
    c = {high(b) ^ c[1] ^ key[0], low(b), high(a) ^ c[3] ^ key[1], low(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return c;
}

uint32_t Random::next_u32() {
  const uint64_t block = position_ / 4;
  if (block != cached_block_) {
    cached_ =
        philox({low(block), high(block), low(stream_), high(stream_)}, {low(seed_), high(seed_)});
    cached_block_ = block;
  }
  return cached_[position_++ % 4];
}

uint64_t Random::next_u64() {
  const uint64_t high_word = next_u32();
  return high_word << 32 | next_u32();
}

double Random::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }

double Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

int64_t Random::below(int64_t n) {
  assert(n >= 1);
  const auto range = static_cast<uint64_t>(n);
  const uint64_t limit = ~uint64_t{0} - (~uint64_t{0} % range + 1) % range;
  for (;;) {
    const uint64_t value = next_u64();
    if (value <= limit) return static_cast<int64_t>(value % range);
  }
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

// The loops that measure the machine, for the widest instruction set it has. Counts are multiples
// of 256.
namespace elapse::bench {

float sum_of(const float* data, int64_t count);  // of any alignment
// Writes past the caches: a store does not first fetch what it overwrites.
void stream(const float* from, float* to, int64_t count);  // 64-byte aligned

// As many independent chains of fused multiply-adds as hide their latency.
float multiply_adds(int64_t rounds);
int64_t multiply_adds_per_round();

}  // namespace elapse::bench

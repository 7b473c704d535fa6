// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "elapse/ops/device.h"

namespace elapse::cpu {

inline constexpr int64_t kFewRows = 8;

// The products of a few rows with many:
//   out[i * out_few + j * out_many] = bias[j] + sum over k of few[i][k] * many[j][k]
// Each result is the same whatever else is in the call.
struct DotsOfFewRows {
  Tensor few;         // (n_few, length), n_few <= kFewRows; of bf16 only where many is as well and
                      // multiplies_bf16()
  Tensor many;        // (n_many, length), contiguous if of f16 or bf16; read once
  const float* bias;  // (n_many), or null: zeros
  float* out;
  int64_t out_few;  // strides, in elements
  int64_t out_many;
};

void dots_of_few_rows(Device& device, const DotsOfFewRows& args);
// On this thread alone, where few is of f32.
void dots_of_few_rows_here(const DotsOfFewRows& args);

// (rows, columns) of f32 as (columns, rows).
Tensor transposed(Device& device, const Tensor& matrix);
// A contiguous matrix of 16 bits as f32; any other as it is.
Tensor widened(Device& device, const Tensor& weight);

// Whether the processor multiplies bf16 as they are.
bool multiplies_bf16();

// to = from, contiguous matrices of f16 or bf16 and of f32.
void widen_rows(const Tensor& from, const Tensor& to);

// to[i] = from[i] as bf16, to nearest, ties to even.
void round_to_bf16(const float* from, int64_t count, uint16_t* to);

}  // namespace elapse::cpu

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

namespace elapse {

// out[i] = table[index[i]]: the embedding, and the choice of some tokens' rows. Where out is f32,
// the table may be f16 or bf16. Indices outside [0, rows) are an Error where the device's memory is
// the host's; elsewhere the caller answers for them.
struct GatherRows {
  static constexpr Op kOp = Op::gather_rows;
  Tensor table;  // (rows, width)
  Tensor index;  // (count) i64
  Tensor out;    // (count, width), assigned
};

// dtable[index[i]] += dout[i], in the order of i.
struct ScatterAddRows {
  static constexpr Op kOp = Op::scatter_add_rows;
  Tensor dout;    // (count, width)
  Tensor index;   // (count) i64
  Tensor dtable;  // (rows, width), accumulated
};

// The column of each row's greatest number, the first of several. -1 where there is none to choose:
// of a row with a NaN or +inf, and of one of -inf alone.
struct Likeliest {
  static constexpr Op kOp = Op::likeliest;
  Tensor logits;  // (rows, classes)
  Tensor index;   // (rows) i64, assigned
};

void gather_rows(Device& device, const GatherRows& args);
void scatter_add_rows(Device& device, const ScatterAddRows& args);
void likeliest(Device& device, const Likeliest& args);

}  // namespace elapse

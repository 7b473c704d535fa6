// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string_view>
#include <vector>

#include "elapse/core/random.h"
#include "elapse/ops/sequences.h"
#include "elapse/points/points.h"

// What the Mamba mixers start from: published initial values, and states that somebody looks at.
namespace elapse {

using Values = std::vector<double>;

Values uniform_values(Random& random, int64_t count, double bound);  // within -bound to bound

// softplus(value) is log-uniform over the published range of step sizes, 1e-3 to 0.1.
Values dt_bias_values(Random& random, int64_t count);

// Uploads values rounded to float32, which every published checkpoint starts from.
Tensor upload_rounded(Device& device, DType dtype, const Values& values, Shape shape);

// A part of the state as the sequences of one call see it while somebody looks at or edits what
// they start from: a pool of its own, one slot a sequence.
struct StartPool {
  Var pool;
  Sequences seqs;
};

StartPool start_pool(Tape& tape, const Var& pool, const Sequences& seqs, std::string_view name,
                     const PointScope& points);

}  // namespace elapse

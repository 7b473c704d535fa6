// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <vector>

#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

// What mixers start from: published initial values, and states that somebody looks at.
namespace elapse {

using Values = std::vector<double>;

Values uniform_values(Random& random, int64_t count, double bound);  // within -bound to bound

Values normal_values(Random& random, int64_t count);  // mean 0, variance 1

// softplus(value) is log-uniform over the published range of step sizes, 1e-3 to 0.1.
Values dt_bias_values(Random& random, int64_t count);

// Uploads values rounded to float32, which every published checkpoint starts from.
Tensor upload_rounded(Device& device, DType dtype, const Values& values, Shape shape);

// run(seqs, pool), where `pool` is a part ("h") of the state, or empty without a state: zeros.
// Where the point `name` of what sequences start from is edited, or its gradient is asked for, the
// pool is one of its own with a slot a sequence, and the ends go back into the state's.
Var run_from_starts(Tape& tape, const Mixer& mixer, const LayerState* state, const char* part,
                    const char* name, const Sequences& seqs, const PointScope& points,
                    const std::function<Var(const Sequences& seqs, const Var& pool)>& run);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/autograd/functions.h"

// The fused operations put together out of small ones. They check the kernels, and stand in on a
// device that has none; sequences start from zeros, and nothing inside can be watched or edited.
namespace elapse {

Var composed_causal_conv(Tape& tape, const Var& x, const Var& weight, const Var& bias,
                         const Sequences& seqs);
Var composed_selective_scan(Tape& tape, const ScanVars& in, const Sequences& seqs);
// Without limits of dt.
Var composed_ssd(Tape& tape, const SsdVars& in, int64_t n_groups, const Sequences& seqs);

}  // namespace elapse

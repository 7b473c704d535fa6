// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/autograd/tape.h"
#include "elapse/ops/diagonal_ssm.h"
#include "elapse/ops/long_conv.h"

// State spaces and long convolutions on Vars, as functions.h has the other operations.
namespace elapse {

// x (tokens, d_inner) and K (d_inner, filter_len) -> (tokens, d_inner)
Var long_conv(Tape& tape, const Var& x, const Var& K, const Sequences& seqs);

struct DiagonalSsmVars {
  Var x, dt, A_real, A_imag, C, D;  // shapes: DiagonalSsmInputs; A_imag may be empty
};
// y, (tokens, d_inner). `pool` (slots, d_inner, d_state) as for causal_conv.
Var diagonal_ssm(Tape& tape, const DiagonalSsmVars& in, const Sequences& seqs, const Var& pool,
                 const Tap& h = {});

}  // namespace elapse

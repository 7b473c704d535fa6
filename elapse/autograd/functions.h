// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <limits>
#include <optional>
#include <vector>

#include "elapse/autograd/tape.h"
#include "elapse/ops/causal_conv.h"
#include "elapse/ops/cross_entropy.h"
#include "elapse/ops/delayed.h"
#include "elapse/ops/gated_linear_attention.h"
#include "elapse/ops/gated_rms_norm.h"
#include "elapse/ops/layer_norm.h"
#include "elapse/ops/pointwise.h"
#include "elapse/ops/recurrent.h"
#include "elapse/ops/rms_norm.h"
#include "elapse/ops/selective_scan.h"
#include "elapse/ops/ssd.h"

// The operations of elapse/ops on Vars: computed at once, recorded on the tape for backward.
// Formulas and shapes stand with the operations.
namespace elapse {

Var gather_rows(Tape& tape, const Var& table /* (rows, width) */,
                const Tensor& index /* (count) i64 */);  // (count, width)
// Rows of the parts in turn; the inverse of slicing.
Var concat_rows(Tape& tape, const std::vector<Var>& parts);  // (sum of rows, width)
// Rows [begin, end) of x, without a copy.
Var slice_rows(Tape& tape, const Var& x, int64_t begin, int64_t end);
// Cuts the columns of x (tokens, sum of widths) into views. x has no other reader, and its parts
// are read by functions that assign their gradient (not by gather_rows or slice_rows).
std::vector<Var> split(Tape& tape, const Var& x, const std::vector<int64_t>& widths);

// `bias` may be empty. `wide`: y of an x of 16 bits is float32.
Var linear(Tape& tape, const Var& x, const Var& weight, const Var& bias,
           bool wide = false);  // (rows, out)
// x W for x (rows, in) and a weight (in, out): the way back through a linear layer, as tied
// decoders go.
Var linear_transposed(Tape& tape, const Var& x, const Var& weight);  // (rows, out)

Var exp(Tape& tape, const Var& x);
Var neg_exp(Tape& tape, const Var& x);
Var relu(Tape& tape, const Var& x);
Var silu(Tape& tape, const Var& x);
Var softplus(Tape& tape, const Var& x);
Var gelu(Tape& tape, const Var& x);
Var sigmoid(Tape& tape, const Var& x);
Var gelu_tanh(Tape& tape, const Var& x);
Var tanh(Tape& tape, const Var& x);
Var log_sigmoid(Tape& tape, const Var& x);
Var elu_plus_one(Tape& tape, const Var& x);
Var reciprocal(Tape& tape, const Var& x);
Var sine(Tape& tape, const Var& x);
Var swiglu(Tape& tape, const Var& a, const Var& b);  // silu(a) b
Var add(Tape& tape, const Var& a, const Var& b);     // broadcasting
Var mul(Tape& tape, const Var& a, const Var& b);     // broadcasting
Var sum_last(Tape& tape, const Var& x);              // (..., n) -> (..., 1)
Var reshape(Tape& tape, const Var& x, Shape shape);
Var copy_of(Tape& tape, const Var& x);
Var cast(Tape& tape, const Var& x, DType dtype);  // x itself where it is that
Var through(Tape& tape, const Var& x, const Tap& tap);

struct Normed {
  Var sum;  // (tokens, d_model): residual + x; x itself without a residual
  Var y;    // (tokens, d_model)
};
// `residual` may be empty. y is of `dtype`, or of x's.
Normed rms_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, double eps,
                const Tap& scale_tap = {}, std::optional<DType> dtype = {});

// `residual` may be empty.
Normed layer_norm(Tape& tape, const Var& x, const Var& residual, const Var& weight, const Var& bias,
                  double eps, const Tap& scale_tap = {}, std::optional<DType> dtype = {});

struct GatedNormTaps {
  Tap gate, gated, scale;
};
Var gated_rms_norm(Tape& tape, const Var& x, const Var& z, const Var& weight, int64_t n_groups,
                   double eps, const GatedNormTaps& taps = {});

// `pool` (slots, d_conv - 1, d_inner) may be empty. It is changed in place, and so, backward, is
// its gradient.
Var causal_conv(Tape& tape, const Var& x, const Var& weight, const Var& bias, const Sequences& seqs,
                const Var& pool, const ConvTaps& taps = {}, bool silu = true);

struct ScanVars {
  Var x, dt_raw, dt_bias, A, B, C, D, z;  // shapes: ScanInputs
};
// `pool` (slots, d_inner, d_state) as for causal_conv.
Var selective_scan(Tape& tape, const ScanVars& in, const Sequences& seqs, const Var& pool,
                   const ScanTaps& taps = {});

// The numbers of SsdInputs.
struct SsdNumbers {
  int64_t n_groups = 1;
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
};
struct SsdVars {
  Var x, dt_raw, dt_bias, A, B, C, D;  // shapes: SsdInputs

  SsdInputs inputs(const SsdNumbers& numbers, const Sequences& seqs) const;
};
// `pool` (slots, d_inner, d_state) as for causal_conv.
Var ssd(Tape& tape, const SsdVars& in, const SsdNumbers& numbers, const Sequences& seqs,
        const Var& pool, const SsdTaps& taps = {});

struct GlaVars {
  Var q, k, v, log_decay;  // shapes: GlaInputs

  GlaInputs inputs(int64_t n_heads, const Sequences& seqs) const;
};
// `pool` (slots, d_inner, d_k) as for causal_conv.
Var gated_linear_attention(Tape& tape, const GlaVars& in, int64_t n_heads, const Sequences& seqs,
                           const Var& pool, const GlaTaps& taps = {});

// x (tokens, d_model) -> (tokens, width * d_model). `pool` (slots, queue_rows, d_model) as for
// causal_conv.
Var delayed(Tape& tape, const Var& x, const Delays& delays, const Sequences& seqs, const Var& pool);

// The cell's h, (tokens, d_inner). `pool` (slots, state_rows, d_inner) as for causal_conv.
Var recurrent(Tape& tape, Cell cell, const Var& a, const Var& weight, const Var& bias,
              const Sequences& seqs, const Var& pool, const RecurrentTaps& taps = {});

// A pool's states by sequence, (n_seqs, ., .): what each starts from, zeros where it names no slot.
Var load_slots(Tape& tape, const Var& pool, const Sequences& seqs);
// The other way: what each sequence ended with, into the slot it names.
void store_slots(Tape& tape, const Var& states, const Var& pool, const Sequences& seqs);

Var cross_entropy(Tape& tape, const Var& logits, const Tensor& targets);  // (1)
// cross_entropy of linear(x, weight), whose logits are never all in memory where the device can do
// without.
Var linear_cross_entropy(Tape& tape, const Var& x, const Var& weight,
                         const Tensor& targets);  // (1)

Var recurrence(Tape& tape, const Var& decay, const Var& write, const Sequences& seqs);
Var causal_shift(Tape& tape, const Var& x, const Sequences& seqs, int64_t by);

}  // namespace elapse

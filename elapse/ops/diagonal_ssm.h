// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"
#include "elapse/ops/tap.h"

namespace elapse {

// What forward and backward both read. A state is a complex number that stands for itself and its
// conjugate, or a real one where there is no A_imag.
struct DiagonalSsmInputs {
  Tensor x;       // (tokens, d_inner), rows may be strided
  Tensor dt;      // (d_inner), positive
  Tensor A_real;  // (d_inner, n_states), negative
  Tensor A_imag;  // (d_inner, n_states) or empty
  Tensor C;       // (d_inner, n_states, 2), real and imaginary parts; or (d_inner, n_states)
  Tensor D;       // (d_inner)
  Sequences seqs;

  bool is_complex() const { return static_cast<bool>(A_imag); }
  int64_t d_inner() const { return A_real.dim(0); }
  int64_t n_states() const { return A_real.dim(1); }
  // Real numbers of a channel's state; those of a complex one stand side by side.
  int64_t d_state() const { return n_states() * (is_complex() ? 2 : 1); }
};

// The diagonal state-space model with B = 1, held constant between steps (S4D: Gu, Gupta, Goel and
// Re, 2022), for each sequence, channel e and state n, h[-1] from the start slot:
//   A_bar = exp(dt A)                      B_bar = (A_bar - 1) / A
//   h[t]  = A_bar h[t-1] + B_bar x[t]      y     = sum_n C h + D x, or 2 Re sum_n C h + D x
// Sequences without slots are also y = K * x, a convolution with the answer K to a single 1:
// kernels may take them together by Fourier transforms, where rounding and what is not finite reach
// as far as long_conv.h says. An edit of h is carried into later tokens.
struct DiagonalSsmForward {
  static constexpr Op kOp = Op::diagonal_ssm_forward;
  DiagonalSsmInputs in;
  Tensor pool;    // (slots, d_inner, d_state), read and written; or empty
  Tensor starts;  // (n_seqs, d_inner, d_state), assigned: what sequences start from; or empty
  Tensor y;       // (tokens, d_inner), assigned; rows may be strided
  Tap h = {};     // (tokens, d_inner, d_state)
};

struct DiagonalSsmBackward {
  static constexpr Op kOp = Op::diagonal_ssm_backward;
  Tensor dy;  // (tokens, d_inner)
  DiagonalSsmInputs in;
  Tensor starts;   // as forward left them; empty: zeros
  Tap h = {};      // forward's edits, and its gradient
  Tensor dx;       // (tokens, d_inner), assigned, rows may be strided
  Tensor ddt;      // (d_inner), accumulated; so too
  Tensor dA_real;  // (d_inner, n_states)
  Tensor dA_imag;  // as A_imag
  Tensor dC;       // as C
  Tensor dD;       // (d_inner)
  Tensor dpool;    // (slots, d_inner, d_state), see Sequences; or empty: not wanted
};

void diagonal_ssm_forward(Device& device, const DiagonalSsmForward& args);
void diagonal_ssm_backward(Device& device, const DiagonalSsmBackward& args);

}  // namespace elapse

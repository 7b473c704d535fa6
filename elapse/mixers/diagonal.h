// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/core/random.h"
#include "elapse/mixers/diagonal_init.h"
#include "elapse/mixers/mixer.h"

namespace elapse {

// The parameters of diagonal state spaces, one for each of d_inner channels, as S4D has them:
// log_dt (d_inner), C (d_inner, n_states, 2) or (d_inner, n_states), log_A_real and A_imag
// (d_inner, n_states). D is beside them.
class DiagonalParameters {
 public:
  DiagonalParameters() = default;
  // Adds them under `prefix`; dt starts log-uniform from 0.001 to 0.1, C and D normal.
  DiagonalParameters(Device& device, DiagonalInit init, int64_t d_inner, int64_t d_state,
                     DType dtype, const std::string& prefix, const std::string& D_name,
                     Random& random, Parameters& parameters);

  // y = C h + D x, from the state's part "h" and into it, passing the points below.
  Var run(Tape& tape, const Mixer& mixer, const Var& x, const Sequences& seqs,
          const LayerState* state, const PointScope& points) const;
  // "h": (slots, d_inner, d_state)
  StatePart make_part(Device& device, int64_t slots, bool needs_grad) const;
  std::vector<PointInfo> points() const;  // dt, A_real, A_imag, h_start, h

 private:
  int64_t d_inner_ = 0, d_state_ = 0;
  DType dtype_ = DType::f32;
  Var log_dt_, C_, log_A_real_, A_imag_, D_;
};

}  // namespace elapse

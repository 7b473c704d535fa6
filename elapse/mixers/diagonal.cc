// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/diagonal.h"

#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/state_space.h"
#include "elapse/core/error.h"
#include "elapse/mixers/start.h"

namespace elapse {

DiagonalParameters::DiagonalParameters(Device& device, DiagonalInit init, int64_t d_inner,
                                       int64_t d_state, DType dtype, const std::string& prefix,
                                       const std::string& D_name, Random& random,
                                       Parameters& parameters)
    : d_inner_(d_inner), d_state_(d_state), dtype_(dtype) {
  ELAPSE_CHECK(!is_complex(init) || d_state % 2 == 0,
               "d_state: expected an even number, two for each complex state, found {}", d_state);
  const int64_t n_states = is_complex(init) ? d_state / 2 : d_state;
  ELAPSE_CHECK(d_state <= most_states(init), "d_state: expected at most {} with init {}, found {}",
               most_states(init), name_of(init), d_state);
  // None decays: that would move poles and step sizes towards nothing in particular.
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  std::vector<std::complex<double>> A;
  // of(a) of each state's a, and again for every channel.
  const auto of_A = [&](auto of) {
    return [&, of, next = size_t{0}]() mutable {
      if (A.empty()) A = diagonal_values(init, d_state);
      return of(A[next++ % A.size()]);
    };
  };
  const Shape shape = {d_inner, n_states};
  log_dt_ = add.drawn("log_dt", {d_inner}, Use::dynamics, [&] { return log_dt_start(random); });
  C_ = is_complex(init) ? add.normal("C", {d_inner, n_states, 2}, Use::other,
                                     std::sqrt(0.5))  // |C|^2 is 1 on average
                        : add.normal("C", shape, Use::other);
  log_A_real_ = add.drawn("log_A_real", shape, Use::dynamics,
                          of_A([](auto a) { return std::log(-a.real()); }));
  if (is_complex(init)) {
    A_imag_ = add.drawn("A_imag", shape, Use::dynamics, of_A([](auto a) { return a.imag(); }));
  }
  D_ = NewParameters{device, dtype, "", random, parameters}.normal(D_name, {d_inner}, Use::other);
}

Var DiagonalParameters::run(Tape& tape, const Mixer& mixer, const Var& x, const Sequences& seqs,
                            const LayerState* state, const PointScope& points) const {
  const DiagonalSsmVars in = {.x = x,
                              .dt = points.pass(tape, "dt", exp(tape, log_dt_)),
                              .A_real = points.pass(tape, "A_real", neg_exp(tape, log_A_real_)),
                              .A_imag = A_imag_ ? points.pass(tape, "A_imag", A_imag_) : Var(),
                              .C = C_,
                              .D = D_};
  const Tap h = points.tap(tape, "h", dtype_, {seqs.tokens, d_inner_, d_state_});
  return run_from_starts(tape, mixer, state, "h", "h_start", seqs, points,
                         [&](const Sequences& from, const Var& pool) {
                           return diagonal_ssm(tape, in, from, pool, h);
                         });
}

StatePart DiagonalParameters::make_part(Device& device, int64_t slots, bool needs_grad) const {
  return {"h", Var(device.zeros(dtype_, {slots, d_inner_, d_state_}), needs_grad)};
}

std::vector<PointInfo> DiagonalParameters::points() const {
  using Axis = PointInfo::Axis;
  std::vector<PointInfo> list = {{"dt", Axis::none}, {"A_real", Axis::none}};
  if (A_imag_) list.push_back({"A_imag", Axis::none});
  list.push_back({"h_start", Axis::sequence});
  list.push_back({"h"});
  return list;
}

}  // namespace elapse

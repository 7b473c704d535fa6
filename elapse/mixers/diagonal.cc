// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/diagonal.h"

#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/state_space.h"
#include "elapse/core/error.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr double kDtMin = 1e-3, kDtMax = 0.1;

// The same numbers for each of `rows` channels.
template <class Of>
Values repeated(const std::vector<std::complex<double>>& A, int64_t rows, Of&& of) {
  Values values;
  for (int64_t e = 0; e < rows; ++e) {
    for (const std::complex<double>& a : A) values.push_back(of(a));
  }
  return values;
}

Values normal_values(Random& random, int64_t count, double deviation) {
  Values values(static_cast<size_t>(count));
  for (double& v : values) v = deviation * random.normal();
  return values;
}

Values log_dt_values(Random& random, int64_t count) {
  Values values(static_cast<size_t>(count));
  for (double& v : values) v = random.uniform(std::log(kDtMin), std::log(kDtMax));
  return values;
}

}  // namespace

DiagonalParameters::DiagonalParameters(Device& device, DiagonalInit init, int64_t d_inner,
                                       int64_t d_state, DType dtype, const std::string& prefix,
                                       const std::string& D_name, Random& random,
                                       Parameters& parameters)
    : d_inner_(d_inner), d_state_(d_state), dtype_(dtype) {
  ELAPSE_CHECK(!is_complex(init) || d_state % 2 == 0,
               "d_state: expected an even number, two for each complex state, found {}", d_state);
  const int64_t n_states = is_complex(init) ? d_state / 2 : d_state;
  // None decays: that would move poles and step sizes towards nothing in particular.
  const auto add = [&](const std::string& name, Shape shape, auto&& start) {
    return parameters.add(name, shape, ParameterUse::other,
                          [&] { return upload_rounded(device, dtype, start(), shape); });
  };
  const auto A = [&](auto of) { return repeated(diagonal_values(init, d_state), d_inner, of); };
  const Shape shape = {d_inner, n_states};
  log_dt_ = add(prefix + "log_dt", {d_inner}, [&] { return log_dt_values(random, d_inner); });
  if (is_complex(init)) {
    C_ = add(prefix + "C", {d_inner, n_states, 2}, [&] {  // |C|^2 is 1 on average
      return normal_values(random, 2 * shape.numel(), std::sqrt(0.5));
    });
  } else {
    C_ = add(prefix + "C", shape, [&] { return normal_values(random, shape.numel(), 1); });
  }
  log_A_real_ = add(prefix + "log_A_real", shape,
                    [&] { return A([](auto a) { return std::log(-a.real()); }); });
  if (is_complex(init)) {
    A_imag_ = add(prefix + "A_imag", shape, [&] { return A([](auto a) { return a.imag(); }); });
  }
  D_ = add(D_name, {d_inner}, [&] { return normal_values(random, d_inner, 1); });
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

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/diagonal_ssm.h"

#include <algorithm>
#include <complex>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

using Complex = std::complex<double>;

// One state of one channel; a real one has no imaginary parts.
struct State {
  Complex A, A_bar, B_bar, C;  // C with the 2 of a conjugate pair
  double dt;
};

// Where channel e's state n stands: among the parameters, and in rows of d_state numbers.
struct Place {
  int64_t e, parameter, number;
  bool is_complex;
};

Place place_of(const DiagonalSsmInputs& in, int64_t e, int64_t n) {
  const int64_t parameter = e * in.n_states() + n;
  return {e, parameter, in.is_complex() ? 2 * parameter : parameter, in.is_complex()};
}

template <class T>
State discretised(const DiagonalSsmInputs& in, const Place& at) {
  State s;
  const T* C = in.C.data<T>() + at.number;
  s.dt = in.dt.data<T>()[at.e];
  s.A = {in.A_real.data<T>()[at.parameter],
         at.is_complex ? in.A_imag.data<T>()[at.parameter] : T(0)};
  s.C = at.is_complex ? 2.0 * Complex(C[0], C[1]) : Complex(C[0]);
  s.A_bar = std::exp(s.dt * s.A);
  s.B_bar = (s.A_bar - 1.0) / s.A;
  return s;
}

template <class T>
Complex load(const Place& at, const T* numbers) {
  return {numbers[at.number], at.is_complex ? numbers[at.number + 1] : T(0)};
}
template <class T>
void store(const Place& at, const Complex& value, T* numbers) {
  numbers[at.number] = static_cast<T>(value.real());
  if (at.is_complex) numbers[at.number + 1] = static_cast<T>(value.imag());
}

// A state is carried in T.
template <class T>
Complex rounded(const Complex& value) {
  return {static_cast<T>(value.real()), static_cast<T>(value.imag())};
}

// `value` past the tap of h, token t; and its gradient back.
template <class T>
Complex passed(const TapAt<T>& tap, int64_t first, bool is_complex, const Complex& value) {
  return {tap(static_cast<T>(value.real()), first),
          is_complex ? tap(static_cast<T>(value.imag()), first + 1) : T(0)};
}
template <class T>
Complex passed_back(const TapAt<T>& tap, int64_t first, bool is_complex, const Complex& gradient) {
  return {tap.back(static_cast<T>(gradient.real()), first),
          is_complex ? tap.back(static_cast<T>(gradient.imag()), first + 1) : T(0)};
}

// h of every token of sequence s in one state, after that before it.
template <class T>
std::vector<Complex> states(const DiagonalSsmInputs& in, const TapAt<T>& tap, const Place& at,
                            const State& state, int64_t s, Complex start) {
  const int64_t* cu = in.seqs.cu_seqlens.data<int64_t>();
  const int64_t row = in.d_inner() * in.d_state();
  std::vector<Complex> h = {start};
  for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
    const double x = Matrix<T>(in.x)(t, at.e);
    const Complex next = rounded<T>(state.A_bar * h.back() + state.B_bar * x);
    h.push_back(passed(tap, t * row + at.number, at.is_complex, next));
  }
  return h;
}

// Calls visit(place, state) for each state of each channel.
template <class T, class Visit>
void for_each_state(const DiagonalSsmInputs& in, Visit&& visit) {
  for (int64_t e = 0; e < in.d_inner(); ++e) {
    for (int64_t n = 0; n < in.n_states(); ++n) {
      const Place at = place_of(in, e, n);
      visit(at, discretised<T>(in, at));
    }
  }
}

template <class T>
void diagonal_ssm_forward(Device&, const DiagonalSsmForward& args) {
  const DiagonalSsmInputs& in = args.in;
  const int64_t* cu = in.seqs.cu_seqlens.data<int64_t>();
  const int64_t slot = in.d_inner() * in.d_state();
  const TapAt<T> tap(args.h);
  std::vector<double> y(static_cast<size_t>(in.seqs.tokens * in.d_inner()));
  std::vector<T> ends(static_cast<size_t>(in.seqs.count() * slot));
  for_each_state<T>(in, [&](const Place& at, const State& state) {
    for (int64_t s = 0; s < in.seqs.count(); ++s) {
      const int64_t from = in.seqs.start_slots.data<int64_t>()[s];
      const Complex start = from < 0 ? Complex() : load(at, args.pool.data<T>() + from * slot);
      if (args.starts) store(at, start, args.starts.data<T>() + s * slot);
      const std::vector<Complex> h = states<T>(in, tap, at, state, s, start);
      for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
        const Complex read = state.C * h[static_cast<size_t>(t - cu[s] + 1)];
        y[static_cast<size_t>(t * in.d_inner() + at.e)] += read.real();
      }
      store(at, h.back(), ends.data() + s * slot);
    }
  });
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const int64_t to = in.seqs.end_slots.data<int64_t>()[s];
    if (to >= 0) std::copy_n(ends.data() + s * slot, slot, args.pool.data<T>() + to * slot);
  }
  for (int64_t t = 0; t < in.seqs.tokens; ++t) {
    for (int64_t e = 0; e < in.d_inner(); ++e) {
      const double skip = double(in.D.data<T>()[e]) * Matrix<T>(in.x)(t, e);
      Matrix<T>(args.y)(t, e) = static_cast<T>(y[static_cast<size_t>(t * in.d_inner() + e)] + skip);
    }
  }
}

// Gradients of a complex number are those of its parts, as one number.
struct StateGradient {
  Complex A_bar, B_bar, C;
};

// Adds to the parameters' gradients.
template <class T>
void add_gradient(const DiagonalSsmBackward& args, const Place& at, const State& s,
                  const StateGradient& d) {
  const Complex dA_exponent = std::conj(s.A_bar) * d.A_bar;
  const Complex dA = s.dt * dA_exponent + std::conj((s.dt * s.A_bar - s.B_bar) / s.A) * d.B_bar;
  const Complex ddt = std::conj(s.A) * dA_exponent + std::conj(s.A_bar) * d.B_bar;
  T* dC = args.dC.data<T>() + at.number;
  const double pair = at.is_complex ? 2 : 1;
  args.ddt.data<T>()[at.e] += static_cast<T>(ddt.real());
  args.dA_real.data<T>()[at.parameter] += static_cast<T>(dA.real());
  dC[0] += static_cast<T>(pair * d.C.real());
  if (!at.is_complex) return;
  args.dA_imag.data<T>()[at.parameter] += static_cast<T>(dA.imag());
  dC[1] += static_cast<T>(pair * d.C.imag());
}

// Of one sequence through one state: adds to `d` and to dx, (tokens, d_inner).
template <class T>
void sequence_backward(const DiagonalSsmBackward& args, const Place& at, const State& state,
                       int64_t s, StateGradient& d, std::vector<double>& dx) {
  const DiagonalSsmInputs& in = args.in;
  const int64_t* cu = in.seqs.cu_seqlens.data<int64_t>();
  const int64_t slot = in.d_inner() * in.d_state();
  const int64_t from = in.seqs.start_slots.data<int64_t>()[s];
  const int64_t to = in.seqs.end_slots.data<int64_t>()[s];
  const Tap edits = {.edits = args.h.edits};
  const TapAt<T> tap(args.h), tap_of_edits(edits);
  const Complex start = args.starts ? load(at, args.starts.data<T>() + s * slot) : Complex();
  const std::vector<Complex> h = states<T>(in, tap_of_edits, at, state, s, start);
  Complex dh;  // of the h at hand, from later tokens
  if (args.dpool && to >= 0) {
    dh = load(at, args.dpool.data<T>() + to * slot);
    store(at, Complex(), args.dpool.data<T>() + to * slot);
  }
  for (int64_t t = cu[s + 1] - 1; t >= cu[s]; --t) {
    const auto i = static_cast<size_t>(t - cu[s]);
    const double dy = Matrix<T>(args.dy)(t, at.e), x = Matrix<T>(in.x)(t, at.e);
    d.C += dy * std::conj(h[i + 1]);
    dh = passed_back(tap, t * slot + at.number, at.is_complex, dh + dy * std::conj(state.C));
    d.A_bar += dh * std::conj(h[i]);
    d.B_bar += dh * x;
    dx[static_cast<size_t>(t * in.d_inner() + at.e)] += (std::conj(state.B_bar) * dh).real();
    dh = rounded<T>(std::conj(state.A_bar) * dh);
  }
  if (!args.dpool || from < 0) return;
  T* dstart = args.dpool.data<T>() + from * slot;
  store(at, load(at, dstart) + dh, dstart);
}

template <class T>
void diagonal_ssm_backward(Device&, const DiagonalSsmBackward& args) {
  const DiagonalSsmInputs& in = args.in;
  std::vector<double> dx(static_cast<size_t>(in.seqs.tokens * in.d_inner()));
  for_each_state<T>(in, [&](const Place& at, const State& state) {
    StateGradient d;
    for (int64_t s = 0; s < in.seqs.count(); ++s) sequence_backward<T>(args, at, state, s, d, dx);
    add_gradient<T>(args, at, state, d);
  });
  for (int64_t e = 0; e < in.d_inner(); ++e) {
    double dD = 0;
    for (int64_t t = 0; t < in.seqs.tokens; ++t) {
      const double dy = Matrix<T>(args.dy)(t, e), skip = double(in.D.data<T>()[e]) * dy;
      Matrix<T>(args.dx)(t, e) =
          static_cast<T>(dx[static_cast<size_t>(t * in.d_inner() + e)] + skip);
      dD += dy * Matrix<T>(in.x)(t, e);
    }
    args.dD.data<T>()[e] += static_cast<T>(dD);
  }
}

}  // namespace

template <class T>
void add_diagonal_ssm(KernelTable& table) {
  table.set<DiagonalSsmForward>(diagonal_ssm_forward<T>);
  table.set<DiagonalSsmBackward>(diagonal_ssm_backward<T>);
}
template void add_diagonal_ssm<float>(KernelTable&);
template void add_diagonal_ssm<double>(KernelTable&);

}  // namespace elapse::ref

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/diagonal_ssm.h"

#include "elapse/backends/cpu/diagonal_ssm_plan.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  std::vector<int64_t> lengths;
  int64_t d_inner, n_states;
  bool is_complex = true;
  std::vector<int64_t> starts = {}, ends = {};
  EditOp edit = EditOp::none;
  bool watch = false;
  int64_t row_padding = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}, 16, 2},
      {{0}, 5, 3, true, {1}, {0}},
      {{1}, 1, 1, true, {0}, {0}},
      {{1}, 16, 32, false, {2}, {2}},
      {{3, 9, 0, 31}, 17, 5, true, {4, -1, 0, 4}, {1, 2, 3, -1}},
      {{3, 9, 0, 31}, 17, 7, false, {4, -1, 0, 4}, {1, 2, 3, -1}},
      {{33, 0, 1, 2, 7, 30}, 33, 3, true, {}, {}, EditOp::none, true, 7},
      {{64, 31, 97, 64, 0, 64, 1}, 31, 16, true, {}, {}, EditOp::none, false, 3},  // convolved
      {{64, 31, 97, 64, 0, 64, 1}, 20, 32, false, {}, {}, EditOp::none, true},
      {{50, 60, 70, 80}, 18, 32, true, {0, -1, -1, -1}, {1, -1, -1, -1}},  // all but one
      {{40, 41, 42}, 15, 16, true, {}, {}, EditOp::scale, true},
      {{12, 7}, 15, 2, false, {}, {0, 1}, EditOp::set, true},
      {{12, 7}, 15, 2, true, {1, 0}, {}, EditOp::add},
      {{19, 1}, 33, 70, true, {1, -1}, {0, 2}},
      {{9, 8}, 3, 100, false, {}, {}, EditOp::scale, true},
  };
  return list;
}

struct Call {
  DiagonalSsmForward forward;
  DiagonalSsmBackward backward;
};

Call make_call(Device& device, Operands& o, const Case& c) {
  const Sequences seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  const Shape shape = {seqs.tokens, c.d_inner}, parameter = {c.d_inner, c.n_states};
  const Shape shape_of_C = c.is_complex ? Shape{c.d_inner, c.n_states, 2} : parameter;
  const int64_t d_state = c.n_states * (c.is_complex ? 2 : 1);
  const Shape slots = {seqs.max_slot + 1, c.d_inner, d_state};
  const bool pooled = seqs.max_slot >= 0;
  Call call;
  auto& [forward, backward] = call;
  forward.in.x = o.activation(shape, -1, 1, c.row_padding);
  forward.in.dt = o.input({c.d_inner}, 0.001, 0.1);
  forward.in.A_real = o.input(parameter, -8, -0.5);
  if (c.is_complex) forward.in.A_imag = o.input(parameter, 0, 20);
  forward.in.C = o.input(shape_of_C);
  forward.in.D = o.input({c.d_inner});
  forward.in.seqs = seqs;
  if (pooled) {
    forward.pool = o.accumulated(slots);
    forward.starts = o.assigned({seqs.count(), c.d_inner, d_state});
  }
  forward.y = o.assigned_activation(shape, c.row_padding);
  const Shape states = {seqs.tokens, c.d_inner, d_state};
  if (c.edit != EditOp::none) forward.h.edits = {{c.edit, o.input(states)}};
  if (c.watch) forward.h.watch = o.assigned(states);

  backward.dy = o.activation(shape, -1, 1, c.row_padding);
  backward.in = forward.in;
  backward.starts = forward.starts;
  backward.h.edits = forward.h.edits;
  if (c.watch) backward.h.gradient = o.assigned(states);
  backward.dx = o.assigned_activation(shape, c.row_padding);
  backward.ddt = o.accumulated({c.d_inner});
  backward.dA_real = o.accumulated(parameter);
  if (c.is_complex) backward.dA_imag = o.accumulated(parameter);
  backward.dC = o.accumulated(shape_of_C);
  backward.dD = o.accumulated({c.d_inner});
  if (pooled) backward.dpool = o.accumulated(slots);
  return call;
}

void run(Device& device, const Call& call) {
  diagonal_ssm_forward(device, call.forward);
  diagonal_ssm_backward(device, call.backward);
}

// The cpu's convolutions and recurrence against ref's recurrence.
TEST(DiagonalSsm, AgreesWithRef) {
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    const Case& c = cases()[i];
    int64_t tokens = 0;
    for (const int64_t len : c.lengths) tokens += len;
    // Sums over states, and over the tokens that an error of A_bar, of a rounding each, reaches;
    // dt's gradient is |A|, up to 22, times as large before its terms cancel.
    const double tolerance = 4 * 22 * kEpsilon * std::sqrt(static_cast<double>(c.n_states)) *
                             std::sqrt(static_cast<double>(tokens + 16));
    const auto call = [&](Device& device, Operands& o) { run(device, make_call(device, o, c)); };
    expect_backends_agree(call, tolerance);
    expect_cuda_agrees_in_bf16(call, tolerance);
  }
}

TEST(DiagonalSsm, ConvolvesWhereThatIsLess) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const auto plan = [&](const Case& c) { return cpu::ssm_plan(make_call(cpu, o, c).forward.in); };
  EXPECT_EQ(plan({{64, 31, 97, 64, 0, 64, 1}, 1, 16}).filter_len, 97);
  EXPECT_EQ(plan({{50, 60, 70, 80}, 1, 32, true, {0, -1, -1, -1}}).filter_len, 80);
  EXPECT_EQ(plan({{1000}, 1, 32}).filter_len, 0);  // the filter itself would cost as much
  EXPECT_EQ(plan({{1000, 1000, 1000}, 1, 1, false}).filter_len, 0);
  EXPECT_EQ(plan({{50, 60}, 1, 32, true, {0, 1}, {0, 1}}).filter_len, 0);
  // len log len beside len d_state.
  EXPECT_EQ(cpu::recurrence_operations(2048, 32, true),
            2 * cpu::recurrence_operations(1024, 32, true));
  EXPECT_LT(cpu::pair_operations(1024), cpu::recurrence_operations(1024, 32, true));
  EXPECT_EQ(cpu::pair_operations(1000), cpu::pair_operations(1024));
}

// With the states: loss = y . dy + the pool's end . dpool.
TEST(DiagonalSsm, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const bool is_complex : {true, false}) {
    for (const EditOp edit : {EditOp::none, EditOp::set, EditOp::add, EditOp::scale}) {
      Operands o(DType::f64);
      const Call call =
          make_call(ref, o, {{5, 1, 0}, 3, 2, is_complex, {0, 0, 4}, {1, 2, 3}, edit});
      const auto& forward = call.forward;
      const auto& backward = call.backward;
      const Tensor start = ref.empty(DType::f64, forward.pool.shape());
      const Tensor dend = ref.empty(DType::f64, forward.pool.shape());
      std::copy_n(forward.pool.data<double>(), start.numel(), start.data<double>());
      std::copy_n(backward.dpool.data<double>(), dend.numel(), dend.data<double>());
      for (const Tensor& t :
           {backward.ddt, backward.dA_real, backward.dA_imag, backward.dC, backward.dD}) {
        if (t) std::fill_n(t.data<double>(), t.numel(), 0.0);
      }
      run(ref, call);
      const auto loss = [&] {
        std::copy_n(start.data<double>(), start.numel(), forward.pool.data<double>());
        diagonal_ssm_forward(ref, forward);
        return weighted_sum(forward.y, backward.dy) + weighted_sum(forward.pool, dend);
      };
      expect_gradient(forward.in.x, backward.dx, loss, "x");
      expect_gradient(forward.in.dt, backward.ddt, loss, "dt", 1e-6);  // curved: |A| is 20
      expect_gradient(forward.in.A_real, backward.dA_real, loss, "A_real");
      if (is_complex) expect_gradient(forward.in.A_imag, backward.dA_imag, loss, "A_imag");
      expect_gradient(forward.in.C, backward.dC, loss, "C");
      expect_gradient(forward.in.D, backward.dD, loss, "D");
      expect_gradient(start, backward.dpool, loss, "pool");
    }
  }
}

TEST(DiagonalSsm, WatchingAndSettingToItselfChangeNoBit) {
  Device cpu("cpu", 2);
  for (const bool is_complex : {true, false}) {
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{70, 66, 71}, {5}}) {
      Operands o(DType::f32);
      Case c = {lengths, 37, 12, is_complex};
      DiagonalSsmForward forward = make_call(cpu, o, c).forward;
      diagonal_ssm_forward(cpu, forward);
      const auto expected = values(forward.y);
      c.watch = true;
      forward.h = {.watch = make_call(cpu, o, c).forward.h.watch};
      diagonal_ssm_forward(cpu, forward);
      EXPECT_EQ(values(forward.y), expected);
      forward.h = {.edits = {{EditOp::set, forward.h.watch}}};
      diagonal_ssm_forward(cpu, forward);
      EXPECT_EQ(values(forward.y), expected);
    }
  }
}

TEST(DiagonalSsm, WatchingANanChangesNoBit) {
  const auto bits = [](const Tensor& t) {
    std::vector<uint64_t> all;
    for (const double value : values(t)) all.push_back(std::bit_cast<uint64_t>(value));
    return all;
  };
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  Case c = {{70, 66}, 18, 12, true};
  DiagonalSsmForward forward = make_call(cpu, o, c).forward;
  put(forward.in.x, 3, std::nan(""));
  diagonal_ssm_forward(cpu, forward);
  const auto expected = bits(forward.y);
  c.watch = true;
  forward.h = {.watch = make_call(cpu, o, c).forward.h.watch};
  diagonal_ssm_forward(cpu, forward);
  EXPECT_EQ(bits(forward.y), expected);
}

// Small steps must not lose B_bar's digits: dt A down to 5e-7.
TEST(DiagonalSsm, SmallStepsKeepTheirDigits) {
  Device cpu("cpu", 1), ref("ref");
  const auto first_y = [](Device& device, DType dtype, double dt) {
    Operands o(dtype);
    const DiagonalSsmForward forward = make_call(device, o, {{1}, 1, 1}).forward;
    put(forward.in.dt, 0, dt);
    put(forward.in.D, 0, 0);
    diagonal_ssm_forward(device, forward);
    return values(forward.y)[0];
  };
  for (const double dt : {1e-6, 1e-4, 1e-2, 1.0}) {
    const double expected = first_y(ref, DType::f64, dt);
    EXPECT_NEAR(first_y(cpu, DType::f32, dt), expected, 64 * kEpsilon * std::abs(expected)) << dt;
  }
}

// As of LongConv, whose transforms these are.
TEST(DiagonalSsm, ANeighboursSizeIsNoMatter) {
  constexpr int64_t kLen = 128, kChannels = 18;
  const Case c = {{kLen, kLen, kLen, kLen}, kChannels, 16};
  const auto in = [&](DType dtype, const char* name, double size) {
    Device device(name, 1);
    Operands o(dtype);
    const DiagonalSsmForward forward = make_call(device, o, c).forward;
    EXPECT_EQ(cpu::ssm_plan(forward.in).filter_len, kLen);
    for (int64_t i = kLen * kChannels; i < 2 * kLen * kChannels; ++i) {
      put(forward.in.x, i, get(forward.in.x, i) * size);
    }
    diagonal_ssm_forward(device, forward);
    return values(forward.y);
  };
  const double tolerance = 4 * kEpsilon * 4 * std::sqrt(double(kLen));
  for (const double size : {0x1p-20, 0x1p20, double(INFINITY)}) {
    const auto found = in(DType::f32, "cpu", size), expected = in(DType::f64, "ref", size);
    for (size_t i = 0; i < found.size(); ++i) {
      const bool is_scaled = i / (kLen * kChannels) == 1;
      if (is_scaled && std::isinf(size)) continue;
      const double unit = is_scaled ? size : 1;
      ASSERT_LE(std::abs(found[i] - expected[i]), tolerance * std::max(unit, std::abs(expected[i])))
          << "element " << i << " beside " << size;
    }
  }
}

TEST(DiagonalSsm, RefusesWhatDoesNotFit) {
  Device ref("ref");
  Operands o(DType::f64);
  Call call = make_call(ref, o, {{4}, 3, 2});
  call.forward.in.C = o.input({3, 2});
  EXPECT_THROW(diagonal_ssm_forward(ref, call.forward), Error);
  call.backward.dA_imag = o.accumulated({3, 3});
  EXPECT_THROW(diagonal_ssm_backward(ref, call.backward), Error);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/recurrent.h"

#include <bit>

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

constexpr Cell kCells[] = {Cell::rnn, Cell::lstm, Cell::gru};

struct Case {
  std::vector<int64_t> lengths;
  int64_t d_inner;
  std::vector<int64_t> starts = {}, ends = {};
  EditOp edit = EditOp::none;
  bool watch = false;
  int64_t row_padding = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}, 16},
      {{0}, 5, {1}, {0}},
      {{1}, 1, {0}, {0}},
      {{1}, 16, {2}, {2}},
      {{3, 9, 0, 31}, 17, {4, -1, 0, 4}, {1, 2, 3, -1}},
      {{7, 0, 1, 2, 3, 30}, 33, {0, 0, 0, -1, 7, 6}, {1, 2, 3, 4, 5, 6}, EditOp::none, true, 7},
      {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 31, {}, {}, EditOp::scale, true},  // three groups
      {{65, 64}, 40, {0, 0}, {1, 2}, EditOp::add, false, 3},
      {{12}, 15, {}, {0}, EditOp::set, true},
      // Several channels a multiprocessor of a GPU, and more numbers than it takes at once.
      {{9, 12, 0, 8, 1, 3, 2, 5, 10},
       301,
       {0, 0, 3, -1, 0, 0, 9, 9, 9},
       {1, 2, 3, 4, 5, 6, 7, 8, -1}},
      {{8, 3}, 1030, {0, 0}, {1, 2}},
  };
  return list;
}

struct Call {
  RecurrentForward forward;
  RecurrentBackward backward;
};

Tap make_tap(Operands& o, const Case& c, Shape shape) {
  Tap tap;
  if (c.edit != EditOp::none) tap.edits = {{c.edit, o.input(shape)}};
  if (c.watch) tap.watch = o.assigned(shape);
  return tap;
}

Tap backward_of(Operands& o, Tap tap) {
  if (tap.watch) tap.gradient = o.assigned(tap.watch.shape());
  tap.watch = {};
  return tap;
}

// Only the taps that the cell has.
RecurrentTaps make_taps(Operands& o, const Case& c, Cell cell, Shape shape) {
  RecurrentTaps taps;
  const int64_t gates = cell == Cell::rnn ? 0 : gate_count(cell);
  for (int64_t k = 0; k < gates; ++k) taps.gates[static_cast<size_t>(k)] = make_tap(o, c, shape);
  if (cell == Cell::lstm) taps.c = make_tap(o, c, shape);
  taps.h = make_tap(o, c, shape);
  return taps;
}

Call make_call(Device& device, Operands& o, const Case& c, Cell cell) {
  const Sequences seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  const int64_t tokens = seqs.tokens, gates = gate_count(cell) * c.d_inner;
  const Shape shape = {tokens, c.d_inner}, slots = {seqs.max_slot + 1, state_rows(cell), c.d_inner};
  const bool pooled = seqs.max_slot >= 0;
  Call call;
  auto& [forward, backward] = call;
  const double bound = 1 / std::sqrt(static_cast<double>(c.d_inner));
  forward.cell = cell;
  forward.a = o.activation({tokens, gates}, -1, 1, c.row_padding);
  forward.weight = o.input({gates, c.d_inner}, -bound, bound);
  forward.bias = o.input({gates});
  forward.seqs = seqs;
  if (pooled) forward.pool = o.accumulated(slots);
  forward.before = o.assigned({tokens, state_rows(cell) * c.d_inner});
  forward.inner = o.assigned({tokens, inner_rows(cell) * c.d_inner});
  forward.h = o.assigned_activation(shape, c.row_padding);
  forward.taps = make_taps(o, c, cell, shape);

  backward.cell = cell;
  backward.dh = o.activation(shape, -1, 1, c.row_padding);
  backward.weight = forward.weight;
  backward.seqs = seqs;
  backward.before = forward.before;
  backward.inner = forward.inner;
  for (size_t k = 0; k < forward.taps.gates.size(); ++k) {
    backward.taps.gates[k] = backward_of(o, forward.taps.gates[k]);
  }
  backward.taps.c = backward_of(o, forward.taps.c);
  backward.taps.h = backward_of(o, forward.taps.h);
  backward.da = o.assigned_activation({tokens, gates}, c.row_padding);
  backward.dm = o.assigned({tokens, gates});
  if (pooled) backward.dpool = o.accumulated(slots);
  return call;
}

void run(Device& device, const Call& call) {
  recurrent_forward(device, call.forward);
  recurrent_backward(device, call.backward);
}

TEST(Recurrent, AgreesWithRef) {
  for (const Cell cell : kCells) {
    for (size_t i = 0; i < cases().size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "cell " << static_cast<int>(cell) << ", case " << i);
      const Case& c = cases()[i];
      // Errors of tokens before fade (|dh[t] / dh[t - 1]| < 1 at such weights), or add up.
      const double tolerance = 64 * kEpsilon * std::sqrt(static_cast<double>(c.d_inner + 16));
      const auto call = [&](Device& device, Operands& o) {
        run(device, make_call(device, o, c, cell));
      };
      expect_backends_agree(call, tolerance);
      expect_cuda_agrees_in_bf16(call, tolerance);
    }
  }
}

// With the states: loss = h . dh + the pool's end . dpool, as a function of a and the pool's start;
// dweight and dbias are sums over tokens of dm.
TEST(Recurrent, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const Cell cell : kCells) {
    for (const EditOp edit : {EditOp::none, EditOp::set, EditOp::add, EditOp::scale}) {
      SCOPED_TRACE(::testing::Message() << "cell " << static_cast<int>(cell));
      Operands o(DType::f64);
      const Call call = make_call(ref, o, {{5, 1, 0}, 3, {0, 0, 4}, {1, 2, 3}, edit}, cell);
      const auto& forward = call.forward;
      const auto& backward = call.backward;
      const Tensor start = ref.empty(DType::f64, forward.pool.shape());
      const Tensor dend = ref.empty(DType::f64, forward.pool.shape());
      std::copy_n(forward.pool.data<double>(), start.numel(), start.data<double>());
      std::copy_n(backward.dpool.data<double>(), dend.numel(), dend.data<double>());
      run(ref, call);
      const auto loss = [&] {
        std::copy_n(start.data<double>(), start.numel(), forward.pool.data<double>());
        recurrent_forward(ref, forward);
        return weighted_sum(forward.h, backward.dh) + weighted_sum(forward.pool, dend);
      };
      const int64_t gates = forward.weight.dim(0), tokens = forward.seqs.tokens;
      const Tensor dweight = ref.zeros(DType::f64, forward.weight.shape());
      const Tensor dbias = ref.zeros(DType::f64, {gates});
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < gates; ++j) {
          const double dm = backward.dm.data<double>()[t * gates + j];
          dbias.data<double>()[j] += dm;
          for (int64_t k = 0; k < 3; ++k) {
            const int64_t at = t * forward.before.dim(1) + k;
            dweight.data<double>()[j * 3 + k] += dm * forward.before.data<double>()[at];
          }
        }
      }
      expect_gradient(forward.a, backward.da, loss, "a");
      expect_gradient(forward.weight, dweight, loss, "weight");
      expect_gradient(forward.bias, dbias, loss, "bias");
      expect_gradient(start, backward.dpool, loss, "pool");
    }
  }
}

TEST(Recurrent, WatchingAndSettingToItselfChangeNoBit) {
  Device cpu("cpu", 2);
  for (const Cell cell : kCells) {
    Operands o(DType::f32);
    const Call call = make_call(cpu, o, {{30, 3}, 37}, cell);
    RecurrentForward forward = call.forward;
    recurrent_forward(cpu, forward);
    const auto expected = values(forward.h);
    forward.taps = make_taps(o, {.lengths = {30, 3}, .d_inner = 37, .watch = true}, cell, {33, 37});
    recurrent_forward(cpu, forward);
    EXPECT_EQ(values(forward.h), expected);
    std::vector<Tap*> taps = {&forward.taps.c, &forward.taps.h};
    for (Tap& gate : forward.taps.gates) taps.push_back(&gate);
    for (Tap* tap : taps) {
      if (tap->watch) *tap = {.edits = {{EditOp::set, tap->watch}}};
    }
    recurrent_forward(cpu, forward);
    EXPECT_EQ(values(forward.h), expected);
  }
}

// Sequence `s` of a batch, and its gradients, have the bits of that sequence alone.
TEST(Recurrent, WhoElseIsThereChangesNoBit) {
  Device cpu("cpu", 2);
  const std::vector<int64_t> lengths = {5, 9, 2, 9, 7, 1};
  for (const Cell cell : kCells) {
    Operands o(DType::f32);
    const Call all = make_call(cpu, o, {lengths, 33}, cell);
    run(cpu, all);
    int64_t begin = 0;
    for (const int64_t length : lengths) {
      const int64_t end = begin + length;
      Operands p(DType::f32);
      Call one = make_call(cpu, p, {{length}, 33}, cell);
      one.forward.a = all.forward.a.rows(begin, end);
      one.forward.weight = one.backward.weight = all.forward.weight;
      one.forward.bias = all.forward.bias;
      one.backward.dh = all.backward.dh.rows(begin, end);
      run(cpu, one);
      EXPECT_EQ(values(one.forward.h), values(all.forward.h.rows(begin, end)));
      EXPECT_EQ(values(one.backward.da), values(all.backward.da.rows(begin, end)));
      begin = end;
    }
  }
}

// Weights of 16 bits give what the same numbers in float give.
TEST(Recurrent, TakesNarrowWeights) {
  Device cpu("cpu", 2);
  for (const Cell cell : kCells) {
    Operands o(DType::f32);
    Call call = make_call(cpu, o, {{9, 4}, 33}, cell);
    const Tensor wide = call.forward.weight, narrow = cpu.empty(DType::bf16, wide.shape());
    for (int64_t i = 0; i < wide.numel(); ++i) {
      auto bits = std::bit_cast<uint32_t>(wide.data<float>()[i]) & 0xFFFF0000u;
      wide.data<float>()[i] = std::bit_cast<float>(bits);
      static_cast<uint16_t*>(narrow.raw())[i] = static_cast<uint16_t>(bits >> 16);
    }
    run(cpu, call);
    const auto h = values(call.forward.h), da = values(call.backward.da);
    call.forward.weight = call.backward.weight = narrow;
    run(cpu, call);
    EXPECT_EQ(values(call.forward.h), h);
    EXPECT_EQ(values(call.backward.da), da);
  }
}

// Near 0 tanh(x) is x, and everywhere odd.
TEST(Recurrent, SmallValuesStayWhatTheyAre) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const Call call = make_call(cpu, o, {{6}, 1}, Cell::rnn);
  std::fill_n(call.forward.weight.data<float>(), 1, 0.0f);
  std::fill_n(call.forward.bias.data<float>(), 1, 0.0f);
  const float inputs[] = {1e-9f, -1e-9f, 0.2499f, -0.2499f, 0.2501f, -0.2501f};
  std::copy_n(inputs, 6, call.forward.a.data<float>());
  recurrent_forward(cpu, call.forward);
  const float* h = call.forward.h.data<float>();
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(h[i] / std::tanh(inputs[i]), 1, 1e-6);
  for (int i = 0; i < 6; i += 2) EXPECT_EQ(h[i], -h[i + 1]);
}

TEST(Recurrent, RefusesWhatDoesNotFit) {
  Device ref("ref");
  Operands o(DType::f64);
  Call call = make_call(ref, o, {{4}, 3}, Cell::gru);
  call.forward.bias = o.input({8});
  EXPECT_THROW(recurrent_forward(ref, call.forward), Error);
  call.backward.inner = {};
  EXPECT_THROW(recurrent_backward(ref, call.backward), Error);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/causal_conv.h"

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  std::vector<int64_t> lengths;
  int64_t d_inner;
  int64_t d_conv = 4;
  std::vector<int64_t> starts = {}, ends = {};
  bool bias = true;
  EditOp edit = EditOp::none;
  bool one_source = false;
  bool watch = false;
  int64_t row_padding = 0;
  std::vector<int64_t> terms = {};  // by k, that are watched and edited as well
  bool silu = true;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}, 16},
      {{0}, 5, 4, {1}, {0}},
      {{1}, 1, 1, {0}, {0}},
      {{1}, 16, 4, {2}, {2}},
      {{2}, 17, 4, {2}, {2}, false},
      {{5}, 15, 2, {}, {1}},
      {{7, 0, 1, 2, 3, 30},
       130,
       4,
       {0, 0, 0, -1, 7, 6},
       {1, 2, 3, 4, 5, 6},
       true,
       EditOp::none,
       false,
       true,
       7},
      {{3, 9}, 33, 9, {4, -1}, {4, 0}, true, EditOp::scale, false, true},
      {{65, 64, 63, 1}, 17, 5, {}, {}, false, EditOp::set, false, false, 1},
      {{200, 1, 131}, 130, 4, {1, 1, 0}, {2, 3, 0}, true, EditOp::add, true},  // many spans
      {{300}, 130, 3, {0}, {0}, true, EditOp::scale, true, true},
      {{7, 0, 3}, 17, 4, {0, -1, 4}, {1, 2, 3}, true, EditOp::set, false, true, 0, {0, 3}},
      {{200, 1, 131}, 530, 4, {1, 1, 0}, {2, 3, 0}, true, EditOp::add, true, true, 1, {1}},
      {{131}, 33, 2, {}, {}, false, EditOp::scale, false, true, 0, {0, 1}},
      {{131, 3}, 33, 4, {0, 1}, {2, 3}, true, EditOp::none, false, false, 0, {}, false},
      {{200, 5, 63}, 17, 64, {0, 1, 2}, {0, 3, 4}, false, EditOp::none, false, true, 1, {}, false},
      {{70}, 16, 64, {}, {}, false, EditOp::add, false, true, 0, {0, 63}, false},
      {{7, 0, 1, 2, 3, 30}, 130},
      {{65, 64, 63, 1, 129}, 18, 4, {}, {}, false, EditOp::none, false, false, 2},
      {{200, 1, 131}, 530, 4, {}, {}, true, EditOp::none, false, false, 0, {}, false},
  };
  return list;
}

struct Call {
  CausalConvForward forward;
  CausalConvBackward backward;
};

Tap make_tap(Operands& o, const Case& c, Shape shape) {
  Tap tap;
  if (c.edit != EditOp::none) tap.edits = {{c.edit, o.input(c.one_source ? Shape{1} : shape)}};
  if (c.watch) tap.watch = o.assigned(shape);
  return tap;
}

ConvTaps make_taps(Operands& o, const Case& c, Shape shape) {
  ConvTaps taps = {.conv = make_tap(o, c, shape)};
  if (!c.terms.empty()) taps.terms.resize(static_cast<size_t>(c.d_conv));
  for (const int64_t k : c.terms) taps.terms[static_cast<size_t>(k)] = make_tap(o, c, shape);
  return taps;
}

// Backward, whoever watches forward wants the gradients.
Tap backward_of(Operands& o, Tap tap) {
  if (tap.watch) tap.gradient = o.assigned(tap.watch.shape());
  tap.watch = {};
  return tap;
}

Call make_call(Device& device, Operands& o, const Case& c) {
  const Sequences seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  const Shape shape = {seqs.tokens, c.d_inner},
              slots = {seqs.max_slot + 1, c.d_conv - 1, c.d_inner};
  const bool pooled = seqs.max_slot >= 0;
  Call call;
  auto& [forward, backward] = call;
  forward.x = o.activation(shape, -1, 1, c.row_padding);
  forward.weight = o.input({c.d_inner, c.d_conv});
  if (c.bias) forward.bias = o.input({c.d_inner});
  forward.seqs = seqs;
  if (pooled) forward.pool = o.accumulated(slots);
  if (pooled) forward.saved_start = o.assigned({seqs.count(), c.d_conv - 1, c.d_inner});
  forward.y = o.assigned_activation(shape, c.row_padding);
  forward.taps = make_taps(o, c, shape);
  forward.silu = c.silu;

  backward.dy = o.activation(shape, -1, 1, c.row_padding);
  backward.x = forward.x;
  backward.weight = forward.weight;
  backward.bias = forward.bias;
  backward.seqs = seqs;
  backward.saved_start = forward.saved_start;
  backward.silu = c.silu;
  backward.taps.conv = backward_of(o, forward.taps.conv);
  for (const Tap& term : forward.taps.terms) {
    backward.taps.terms.push_back(backward_of(o, term));
  }
  backward.dx = o.assigned_activation(shape, c.row_padding);
  backward.dweight = o.accumulated({c.d_inner, c.d_conv});
  if (c.bias) backward.dbias = o.accumulated({c.d_inner});
  if (pooled) backward.dpool = o.accumulated(slots);
  return call;
}

void run(Device& device, const Call& call) {
  causal_conv_forward(device, call.forward);
  causal_conv_backward(device, call.backward);
}

TEST(CausalConv, AgreesWithRef) {
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    const Case& c = cases()[i];
    int64_t tokens = 0;
    for (const int64_t length : c.lengths) tokens += length;
    const auto longest = static_cast<double>(tokens + 2 * c.d_conv + 8);
    const auto call = [&](Device& device, Operands& o) { run(device, make_call(device, o, c)); };
    expect_backends_agree(call, kEpsilon * longest);
    expect_cuda_agrees(call, kEpsilon * longest, 1, DType::f32, Guarded::kAligned);
    // In bf16 the sigmoid is as exact as that shows.
    expect_cuda_agrees_in_bf16(call, 8 * kEpsilon * longest);
  }
}

// As decoding has them: nothing is kept for backward.
TEST(CausalConv, OneTokenOfEachSequenceAgreesWithRef) {
  const Case some[] = {
      {{1}, 16, 4, {2}, {2}},
      {{1, 1, 1, 1}, 258, 4, {0, 0, -1, 3}, {1, -1, 2, 3}, true, EditOp::none, false, false, 2},
      {{1, 1}, 130, 4, {1, 0}, {1, 0}, false, EditOp::none, false, false, 0, {}, false},
      {{1, 0, 1}, 130, 4, {0, 1, 2}, {0, 1, 2}},
      {{1, 1}, 17, 4, {0, 1}, {0, 1}},
      {{1}, 36, 3, {0}, {0}},
  };
  for (const Case& c : some) {
    const auto call = [&](Device& device, Operands& o) {
      CausalConvForward forward = make_call(device, o, c).forward;
      forward.saved_start = {};
      for (int step = 0; step < 3; ++step) causal_conv_forward(device, forward);
    };
    SCOPED_TRACE(::testing::Message() << c.d_inner << " channels");
    expect_backends_agree(call, 16 * kEpsilon);
    expect_cuda_agrees(call, 16 * kEpsilon, 1, DType::f32, Guarded::kAligned);
    expect_cuda_agrees_in_bf16(call, 128 * kEpsilon);
  }
}

// With the states: loss = y . dy + the pool's end . dpool, as a function of x, the weights and the
// pool's start.
TEST(CausalConv, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const EditOp edit : {EditOp::none, EditOp::set, EditOp::add, EditOp::scale}) {
    Case c = {{5, 1, 0}, 3, 4, {0, 0, 4}, {1, 2, 3}, true, edit};
    if (edit != EditOp::none) c.terms = {1, 3};
    Operands o(DType::f64);
    const Call call = make_call(ref, o, c);
    const CausalConvForward& forward = call.forward;
    const CausalConvBackward& backward = call.backward;
    const Tensor start = ref.empty(DType::f64, forward.pool.shape());
    const Tensor dend = ref.empty(DType::f64, forward.pool.shape());
    std::copy_n(forward.pool.data<double>(), start.numel(), start.data<double>());
    std::copy_n(backward.dpool.data<double>(), dend.numel(), dend.data<double>());
    std::fill_n(backward.dweight.data<double>(), backward.dweight.numel(), 0);
    std::fill_n(backward.dbias.data<double>(), backward.dbias.numel(), 0);
    run(ref, call);
    const auto loss = [&] {
      std::copy_n(start.data<double>(), start.numel(), forward.pool.data<double>());
      causal_conv_forward(ref, forward);
      return weighted_sum(forward.y, backward.dy) + weighted_sum(forward.pool, dend);
    };
    expect_gradient(forward.x, backward.dx, loss, "x");
    expect_gradient(forward.weight, backward.dweight, loss, "weight");
    expect_gradient(forward.bias, backward.dbias, loss, "bias");
    expect_gradient(start, backward.dpool, loss, "pool");
  }
}

TEST(CausalConv, WatchingAndSettingToItselfChangeNoBit) {
  Device cpu("cpu", 2);
  Operands o(DType::f32);
  Case c = {{70, 3}, 37, 4, {0, 1}, {0, 1}};
  const Call call = make_call(cpu, o, c);
  CausalConvForward forward = call.forward;
  forward.pool = {};
  forward.saved_start = {};
  forward.seqs = make_sequences(cpu, c.lengths);
  causal_conv_forward(cpu, forward);
  const auto expected = values(forward.y);
  forward.taps.terms.resize(4);
  std::vector<Tap*> taps = {&forward.taps.conv};
  for (Tap& term : forward.taps.terms) taps.push_back(&term);
  for (Tap* tap : taps) tap->watch = o.assigned({73, 37});
  causal_conv_forward(cpu, forward);
  EXPECT_EQ(values(forward.y), expected);
  for (Tap* tap : taps) {
    *tap = {.watch = o.assigned({73, 37}), .edits = {{EditOp::set, tap->watch}}};
  }
  causal_conv_forward(cpu, forward);
  EXPECT_EQ(values(forward.y), expected);
  for (Tap* tap : taps) EXPECT_EQ(values(tap->watch), values(tap->edits.front().source));
}

// What is watched forward and wanted backward changes no bit of the gradients.
TEST(CausalConv, GradientsOfTermsChangeNoBit) {
  Device cpu("cpu", 2);
  const auto gradients = [&](bool watched) {
    Operands o(DType::f32);
    Call call = make_call(cpu, o, {{131, 3}, 530, 4, {0, 1}, {0, 1}});
    if (watched) {
      call.backward.taps.terms.resize(4);
      call.backward.taps.terms[2].gradient = o.assigned({134, 530});
    }
    run(cpu, call);
    std::vector<std::vector<double>> list;
    for (const Tensor& t :
         {call.backward.dx, call.backward.dweight, call.backward.dbias, call.backward.dpool}) {
      list.push_back(values(t));
    }
    return list;
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

// A token at a time through a slot, or all at once: the same bits.
TEST(CausalConv, StepsAreTheWhole) {
  Device cpu("cpu", 2);
  Operands o(DType::f32);
  const int64_t tokens = 11;
  const Call call = make_call(cpu, o, {{tokens}, 37});
  causal_conv_forward(cpu, call.forward);
  const Tensor pool = cpu.zeros(DType::f32, {1, 3, 37});
  for (int64_t t = 0; t < tokens; ++t) {
    CausalConvForward step = call.forward;
    step.seqs = make_sequences(cpu, {1}, {0}, {0});
    step.pool = pool;
    step.x = call.forward.x.rows(t, t + 1);
    step.y = o.assigned({1, 37});
    causal_conv_forward(cpu, step);
    EXPECT_EQ(values(step.y), values(call.forward.y.rows(t, t + 1))) << "token " << t;
  }
  EXPECT_EQ(values(pool), values(call.forward.x.rows(tokens - 3, tokens)));
}

}  // namespace
}  // namespace elapse

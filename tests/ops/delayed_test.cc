// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/delayed.h"

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  std::vector<int64_t> lengths;
  int64_t d_model;
  Delays delays;
  std::vector<int64_t> starts = {}, ends = {}, positions = {};
  int64_t row_padding = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}, 16, {2, 1}},
      {{0}, 5, {2, 3}, {1}, {0}, {7}},
      {{0}, 5, {2, 3}, {0}, {0}, {7}},
      {{1}, 1, {2, 1}, {0}, {0}},
      {{1}, 16, {3, 4}, {2}, {2}, {1000001}},
      {{5}, 17, {2, 8}, {0}, {0}, {3}},    // shorter than the queue
      {{8}, 17, {2, 8}, {0}, {0}, {13}},   // as long
      {{31}, 17, {2, 8}, {0}, {0}, {13}},  // longer
      {{31}, 17, {2, 8}, {0}, {1}, {13}, 3},
      {{3, 9, 0, 31}, 33, {4, 2}, {4, -1, 0, 4}, {1, 2, 3, -1}, {2, 0, 5, 2}},
      {{7, 0, 1, 2, 3, 30}, 3, {2, 5}, {0, 0, 0, -1, 7, 6}, {1, 2, 3, 4, 5, 6}, {9, 9, 9, 0, 1, 4}},
      {{65, 64, 100}, 260, {2, 64}, {0, 0, -1}, {1, 2, 3}, {6, 6, 0}, 5},
  };
  return list;
}

struct Call {
  DelayedForward forward;
  DelayedBackward backward;
};

Call make_call(Device& device, Operands& o, const Case& c) {
  Sequences seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  seqs.positions = c.positions;
  const Shape one = {seqs.tokens, c.d_model}, all = {seqs.tokens, c.delays.width * c.d_model};
  const Shape queues = {seqs.max_slot + 1, c.delays.queue_rows(), c.d_model};
  Call call;
  auto& [forward, backward] = call;
  forward.x = o.activation(one, -1, 1, c.row_padding);
  forward.delays = c.delays;
  forward.seqs = seqs;
  if (seqs.max_slot >= 0) forward.pool = o.accumulated(queues);
  forward.out = o.assigned_activation(all, c.row_padding);
  backward.dout = o.activation(all, -1, 1, c.row_padding);
  backward.delays = c.delays;
  backward.seqs = seqs;
  backward.dx = o.assigned_activation(one, c.row_padding);
  if (seqs.max_slot >= 0) backward.dpool = o.accumulated(queues);
  return call;
}

TEST(Delayed, AgreesWithRef) {
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    const auto run = [&](Device& device, Operands& o) {
      const Call call = make_call(device, o, cases()[i]);
      delayed_forward(device, call.forward);
      delayed_backward(device, call.backward);
    };
    constexpr double kTolerance = 8 * kEpsilon;  // sums of a few numbers of size 1
    expect_backends_agree(run, kTolerance);
    expect_cuda_agrees_in_bf16(run, kTolerance);
  }
}

TEST(Delayed, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  for (const Delays delays : {Delays{2, 3}, Delays{3, 2}, Delays{4, 1}}) {
    Operands o(DType::f64);
    const Case c = {{6, 1, 0, 2}, 2, delays, {0, 0, 4, 3}, {1, 2, 5, 3}, {5, 5, 0, 8}};
    const Call call = make_call(ref, o, c);
    const auto& forward = call.forward;
    const auto& backward = call.backward;
    std::vector<double> start = values(forward.pool);
    const Tensor dend = o.input(forward.pool.shape());
    for_each_offset(dend, [&](int64_t i) { put(backward.dpool, i, get(dend, i)); });
    const auto loss = [&] {
      for (size_t i = 0; i < start.size(); ++i) put(forward.pool, int64_t(i), start[i]);
      delayed_forward(ref, forward);
      return weighted_sum(forward.out, backward.dout) + weighted_sum(forward.pool, dend);
    };
    delayed_backward(ref, backward);
    expect_gradient(forward.x, backward.dx, loss, "x");
    const Tensor starts = Tensor::wrap(start.data(), DType::f64, forward.pool.shape());
    expect_gradient(starts, backward.dpool, loss, "pool");
  }
}

// Cut anywhere, with the queue handed over: the same rows, and the same queue.
TEST(Delayed, QueuesAreHandedOverAtAnyToken) {
  Device cpu("cpu", 1);
  const Case c = {{23}, 3, {3, 4}, {0}, {0}, {5}};
  Operands whole(DType::f32);
  const DelayedForward uncut = make_call(cpu, whole, c).forward;
  delayed_forward(cpu, uncut);
  for (int64_t cut = 0; cut <= 23; ++cut) {
    Operands o(DType::f32);
    const DelayedForward a = make_call(cpu, o, c).forward;
    for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, int64_t{23}}}) {
      DelayedForward part = a;
      part.seqs = make_sequences(cpu, {end - begin}, {0}, {0});
      part.seqs.positions = {5 + begin};
      part.x = a.x.rows(begin, end);
      part.out = a.out.rows(begin, end);
      delayed_forward(cpu, part);
    }
    EXPECT_EQ(values(a.out), values(uncut.out)) << "cut at " << cut;
    EXPECT_EQ(values(a.pool), values(uncut.pool)) << "cut at " << cut;
  }
}

// Of a sequence of one token, a row alone, however long the queue is.
TEST(Delayed, AStepWritesOneRow) {
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 1);
    Operands o(DType::f32);
    const DelayedForward a = make_call(device, o, {{1}, 4, {2, 512}, {0}, {0}, {700}}).forward;
    const std::vector<double> before = values(a.pool);
    delayed_forward(device, a);
    const std::vector<double> after = values(a.pool);
    for (size_t i = 0; i < after.size(); ++i) {
      if (i / 4 == 700 % 512) EXPECT_EQ(after[i], get(a.x, int64_t(i % 4)));
      else EXPECT_EQ(after[i], before[i]);
    }
    for (int64_t e = 0; e < 4; ++e) EXPECT_EQ(get(a.out, e), before[size_t(700 % 512 * 4 + e)]);
  }
}

TEST(Delayed, RefusesWhatDoesNotFit) {
  Device ref("ref");
  Operands o(DType::f64);
  DelayedForward a = make_call(ref, o, {{4}, 3, {2, 2}, {0}, {0}}).forward;
  a.delays.width = 1;
  EXPECT_THROW(delayed_forward(ref, a), Error);
  a.delays.width = 3;
  EXPECT_THROW(delayed_forward(ref, a), Error);
}

}  // namespace
}  // namespace elapse

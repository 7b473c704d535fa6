// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/cross_entropy.h"

#include "elapse/ops/linear.h"
#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  int64_t tokens, vocab;
  double largest = 4;  // logits are drawn from [-largest, largest]
  int64_t row_padding = 0;
};

const Case kCases[] = {
    {0, 3},        {1, 1},           {2, 15},       {2, 16, 80},
    {3, 17, 4, 5}, {65, 256, 10, 3}, {3, 9001, 30},  // more than one strip of the online sum
    {700, 130},                                      // more than one block
};

struct Call {
  CrossEntropyForward forward;
  CrossEntropyBackward backward;
};

Call make_call(Operands& o, const Case& c) {
  const Shape shape = {c.tokens, c.vocab};
  std::vector<int64_t> targets;
  for (int64_t t = 0; t < c.tokens; ++t) {
    targets.push_back(t % 5 == 1 ? kIgnoredTarget : o.random().below(c.vocab));
  }
  Call call;
  call.forward = {o.input(shape, -c.largest, c.largest, c.row_padding), o.indices(targets),
                  o.assigned({c.tokens}), o.assigned({1})};
  call.backward = {o.input({1}), call.forward.logits, call.forward.targets, call.forward.logsumexp,
                   o.assigned(shape, c.row_padding)};
  return call;
}

void run(Device& device, const Call& call) {
  cross_entropy_forward(device, call.forward);
  cross_entropy_backward(device, call.backward);
}

TEST(CrossEntropy, AgreesWithRef) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.vocab);
    // logsumexp, of magnitude up to largest + 10, is rounded to float, as are differences from it.
    expect_backends_agree([&](Device& device, Operands& o) { run(device, make_call(o, c)); },
                          2 * kEpsilon * (c.largest + 10));
  }
}

struct HeadCase {
  int64_t tokens, d_model, vocab;
};

// What the op is: linear and cross_entropy, with their gradients.
void run_composed(Device& device, const LinearCrossEntropyForward& forward,
                  const LinearCrossEntropyBackward& backward) {
  const Shape shape = {forward.x.dim(0), forward.weight.dim(0)};
  const Tensor logits = device.empty(DType::f64, shape), dlogits = device.empty(DType::f64, shape);
  const Tensor logsumexp = device.empty(DType::f64, {shape[0]});
  const Tensor one = device.empty(DType::f64, {1});
  *one.data<double>() = 1;
  linear_forward(device, {forward.x, forward.weight, {}, logits});
  cross_entropy_forward(device, {logits, forward.targets, logsumexp, forward.loss});
  cross_entropy_backward(device, {one, logits, forward.targets, logsumexp, dlogits});
  linear_backward_input(device, {dlogits, forward.weight, forward.dx});
  std::fill_n(forward.dweight.data<double>(), forward.dweight.numel(), 0);
  linear_backward_weight(device, {dlogits, forward.x, forward.dweight, {}});
  cross_entropy_backward(device, {backward.dloss, logits, forward.targets, logsumexp, dlogits});
  linear_backward_input(device, {dlogits, forward.weight, backward.dx});
  linear_backward_weight(device, {dlogits, forward.x, backward.dweight, {}});
}

void run_head(Device& device, Operands& o, const HeadCase& c) {
  std::vector<int64_t> targets;
  for (int64_t t = 0; t < c.tokens; ++t) {
    targets.push_back(t % 5 == 1 ? kIgnoredTarget : t % c.vocab);
  }
  const Shape shape = {c.tokens, c.d_model}, weight_shape = {c.vocab, c.d_model};
  const Tensor weight = o.handed_on(weight_shape);
  copy(device, {o.activation(weight_shape), weight});
  // dx and dweight in units of a token's share, beside which tolerances are small.
  const auto count = static_cast<double>(std::max<int64_t>(1, c.tokens));
  const LinearCrossEntropyForward forward = {.x = o.activation(shape),
                                             .weight = weight,
                                             .targets = o.indices(targets),
                                             .loss = o.assigned({1}),
                                             .dx = o.assigned_activation(shape),
                                             .dweight = o.assigned(weight_shape)};
  const LinearCrossEntropyBackward backward = {.dloss = o.input({1}, count, 2 * count),
                                               .unit_dx = forward.dx,
                                               .unit_dweight = forward.dweight,
                                               .dx = o.assigned_activation(shape),
                                               .dweight = o.accumulated(weight_shape)};
  LinearCrossEntropyForward alone = forward;
  alone.loss = o.assigned({1});
  alone.dx = alone.dweight = {};
  if (!device.has(forward.x.dtype(), Op::linear_cross_entropy_forward)) {
    run_composed(device, forward, backward);
    return copy(device, {forward.loss, alone.loss});
  }
  linear_cross_entropy_forward(device, forward);
  linear_cross_entropy_backward(device, backward);
  linear_cross_entropy_forward(device, alone);
}

void expect_head_agrees(const HeadCase& c, DType narrow, double tolerance) {
  SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.d_model << " x " << c.vocab);
  const auto call = [&](Device& device, Operands& o) { run_head(device, o, c); };
  expect_cuda_agrees(call, tolerance, 1, narrow);
}

TEST(CrossEntropy, CudaOfAHeadAgreesWithRef) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  for (const HeadCase& c : {HeadCase{0, 4, 3}, HeadCase{1, 1, 1}, HeadCase{37, 24, 17},
                            HeadCase{700, 33, 130}, HeadCase{400, 8, 20'001}, HeadCase{3, 8, 50280},
                            HeadCase{2, 8, 70'001}}) {  // does not fit into shared memory
    const auto longest = static_cast<double>(c.tokens + c.d_model + 64);
    expect_head_agrees(c, DType::f32, 2 * kEpsilon * longest);
    // A token's gradient of logits, at most 2.5 here, is rounded before it meets x, which a class
    // adds up for those whose target it is and about as much for all others.
    const auto of_class = static_cast<double>((c.tokens + c.vocab - 1) / c.vocab);
    expect_head_agrees(c, DType::bf16, 2.5 * kBf16Epsilon / 2 * (1 + 2 * of_class));
  }
  // More than one part.
  expect_head_agrees({130, 1, 530'000}, DType::f32, 2 * kEpsilon * 200);
}

TEST(CrossEntropy, GradientIsThatOfFiniteDifferences) {
  Device ref("ref");
  Operands o(DType::f64);
  const Call call = make_call(o, {6, 5});
  run(ref, call);
  const auto loss = [&] {
    cross_entropy_forward(ref, call.forward);
    return weighted_sum(call.forward.loss, call.backward.dloss);
  };
  expect_gradient(call.forward.logits, call.backward.dlogits, loss, "logits");
}

TEST(CrossEntropy, NoUnmaskedTargetIsNoLoss) {
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 1);
    Operands o(DType::f32);
    Call call = make_call(o, {3, 20});
    call.forward.targets = call.backward.targets = o.indices({-100, -100, -100});
    run(device, call);
    EXPECT_EQ(values(call.forward.loss)[0], 0);
    EXPECT_EQ(values(call.backward.dlogits), std::vector<double>(60, 0));
  }
}

TEST(CrossEntropy, ExcludedClassesHaveNoProbability) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const Call call = make_call(o, {1, 9000});
  float* logits = call.forward.logits.data<float>();
  for (int64_t v = 0; v < 8999; ++v) logits[v] = -INFINITY;  // all of the first strips
  logits[8999] = 3;
  *call.forward.targets.data<int64_t>() = 8999;
  run(cpu, call);
  EXPECT_EQ(values(call.forward.logsumexp)[0], 3);
  EXPECT_EQ(values(call.forward.loss)[0], 0);
  EXPECT_EQ(values(call.backward.dlogits)[0], 0);
}

TEST(CrossEntropy, ANaNReachesTheLoss) {
  Device cpu("cpu", 1);
  for (const int64_t place : {0, 5, 16, 19}) {
    Operands o(DType::f32);
    const Call call = make_call(o, {1, 20});
    call.forward.logits.data<float>()[place] = NAN;
    run(cpu, call);
    EXPECT_TRUE(std::isnan(values(call.forward.loss)[0]));
  }
}

TEST(CrossEntropy, ATargetOutsideTheClassesIsAnError) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  Call call = make_call(o, {1, 4});
  for (const int64_t target : {-1, 4, -99}) {
    call.forward.targets = o.indices({target});
    EXPECT_THROW(cross_entropy_forward(cpu, call.forward), Error);
  }
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// The fused operations against their compositions out of small ones, values and gradients.
#include "elapse/autograd/compositions.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/core/random.h"

namespace elapse {
namespace {

constexpr int64_t kInner = 6, kState = 5, kConv = 3;

struct Outcome {
  std::vector<double> value;
  std::vector<std::vector<double>> grads;
};

class Compositions : public testing::Test {
 protected:
  Var random_leaf(Shape shape, double low = -1, double high = 1) {
    std::vector<double> values(static_cast<size_t>(shape.numel()));
    for (double& v : values) v = random_.uniform(low, high);
    leaves_.emplace_back(device_.upload(values, shape), true);
    return leaves_.back();
  }
  std::vector<double> numbers(const Tensor& t) {
    std::vector<double> out(static_cast<size_t>(t.numel()));
    device_.download_bytes(t, out.data());
    return out;
  }
  template <class Function>
  Outcome outcome(Function&& function) {
    Tape tape(device_);
    const Var y = function(tape);
    const Var weighted = mul(tape, y, weights_);
    tape.backward(sum_last(tape, reshape(tape, weighted, {1, y.value().numel()})));
    Outcome result = {numbers(y.value()), {}};
    for (Var& leaf : leaves_) {
      result.grads.push_back(numbers(leaf.grad()));
      leaf.set_grad({});
    }
    return result;
  }
  void expect_equal(const Outcome& a, const Outcome& b) {
    for (size_t i = 0; i < a.value.size(); ++i) EXPECT_NEAR(a.value[i], b.value[i], 1e-13);
    for (size_t g = 0; g < a.grads.size(); ++g) {
      for (size_t i = 0; i < a.grads[g].size(); ++i) {
        EXPECT_NEAR(a.grads[g][i], b.grads[g][i], 1e-12) << "input " << g << " element " << i;
      }
    }
  }

  Device device_{"ref"};
  Random random_{3};
  std::vector<Var> leaves_;
  Sequences seqs_ = make_sequences(device_, {4, 0, 1, 19});
  Var weights_ = Var(random_leaf({24, kInner}).value());
};

TEST_F(Compositions, CausalConv) {
  leaves_.clear();
  const Var x = random_leaf({24, kInner}), w = random_leaf({kInner, kConv}),
            b = random_leaf({kInner});
  expect_equal(outcome([&](Tape& t) { return causal_conv(t, x, w, b, seqs_, Var()); }),
               outcome([&](Tape& t) { return composed_causal_conv(t, x, w, b, seqs_); }));
}

TEST_F(Compositions, SelectiveScan) {
  leaves_.clear();
  const ScanVars in = {random_leaf({24, kInner}), random_leaf({24, kInner}, -3, 1),
                       random_leaf({kInner}),     random_leaf({kInner, kState}, -3, -0.1),
                       random_leaf({24, kState}), random_leaf({24, kState}),
                       random_leaf({kInner}),     random_leaf({24, kInner}, -3, 3)};
  expect_equal(outcome([&](Tape& t) { return selective_scan(t, in, seqs_, Var()); }),
               outcome([&](Tape& t) { return composed_selective_scan(t, in, seqs_); }));
}

TEST_F(Compositions, Ssd) {
  for (const int64_t D_count : {6, 2}) {
    leaves_.clear();
    const SsdVars in = {
        random_leaf({24, kInner}),  random_leaf({24, 2}, -3, 1),   random_leaf({2}),
        random_leaf({2}, -3, -0.1), random_leaf({24, 2 * kState}), random_leaf({24, 2 * kState}),
        random_leaf({D_count})};
    expect_equal(outcome([&](Tape& t) { return ssd(t, in, {.n_groups = 2}, seqs_, Var()); }),
                 outcome([&](Tape& t) { return composed_ssd(t, in, 2, seqs_); }));
  }
}

}  // namespace
}  // namespace elapse

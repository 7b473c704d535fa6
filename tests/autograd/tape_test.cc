// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/tape.h"

#include <gtest/gtest.h>

#include "elapse/autograd/functions.h"

namespace elapse {
namespace {

class TapeTest : public testing::Test {
 protected:
  Var leaf(std::vector<double> values, Shape shape) {
    return Var(device_.upload(values, shape), true);
  }
  std::vector<double> grad(const Var& v) {
    std::vector<double> out(static_cast<size_t>(v.value().numel()));
    device_.download_bytes(v.grad(), out.data());
    return out;
  }
  // The sum of all elements, as a loss.
  Var total(Tape& tape, const Var& x) {
    return sum_last(tape, reshape(tape, x, {1, x.value().numel()}));
  }

  Device device_{"ref"};
};

TEST_F(TapeTest, AValueReadTwiceGetsBothGradients) {
  Tape tape(device_);
  const Var x = leaf({1, 2}, {1, 2});
  tape.backward(total(tape, mul(tape, x, add(tape, x, x))));
  EXPECT_EQ(grad(x), (std::vector<double>{4, 8}));
}

TEST_F(TapeTest, SplitColumnsShareTheWholesGradient) {
  Tape tape(device_);
  const Var leaf_x = leaf({1, 2, 3, 4, 5, 6}, {2, 3});
  const Var x = copy_of(tape, leaf_x);
  const std::vector<Var> parts = split(tape, x, {2, 1});
  tape.backward(total(tape, mul(tape, parts[0], parts[0])));
  EXPECT_EQ(grad(leaf_x), (std::vector<double>{2, 4, 0, 8, 10, 0}));
}

// Of the recurrent cells' inputs, each alone gets the gradient that it gets among all.
TEST_F(TapeTest, RecurrentCellsGiveGradientsToThoseThatNeedThem) {
  const Sequences seqs = make_sequences(device_, {2}, {0}, {0});
  const std::vector<std::pair<std::vector<double>, Shape>> inputs = {
      {{0.1, -0.2, 0.3, 0.4, 0.5, -0.6}, {2, 3}},
      {{0.7, -0.8, 0.9}, {3, 1}},
      {{0.2, 0.1, -0.3}, {3}},
      {{0.5}, {1, 1, 1}}};
  const auto gradients = [&](size_t only) {
    std::vector<Var> in;
    for (size_t i = 0; i < inputs.size(); ++i) {
      in.emplace_back(device_.upload(inputs[i].first, inputs[i].second),
                      only == inputs.size() || only == i);
    }
    Tape tape(device_);
    tape.backward(total(tape, recurrent(tape, Cell::gru, in[0], in[1], in[2], seqs, in[3])));
    std::vector<std::vector<double>> list;
    for (const Var& v : in) list.push_back(v.grad() ? grad(v) : std::vector<double>());
    return list;
  };
  const auto all = gradients(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto alone = gradients(i);
    EXPECT_FALSE(all[i].empty());
    EXPECT_EQ(alone[i], all[i]) << i;
    for (size_t j = 1; j < inputs.size(); ++j) {
      EXPECT_EQ(alone[j].empty(), j != i) << i << ", " << j;
    }
  }
}

TEST_F(TapeTest, BroadcastGradientsAreSummed) {
  Tape tape(device_);
  const Var a = leaf({1, 2, 3, 4}, {2, 2});
  const Var row = leaf({10, 20}, {1, 2});
  tape.backward(total(tape, mul(tape, a, row)));
  EXPECT_EQ(grad(row), (std::vector<double>{4, 6}));
  EXPECT_EQ(grad(a), (std::vector<double>{10, 20, 10, 20}));
}

TEST_F(TapeTest, RowsConcatenateSliceAndGather) {
  Tape tape(device_);
  const Var a = leaf({1, 2}, {1, 2});
  const Var b = leaf({3, 4, 5, 6}, {2, 2});
  const Var joined = concat_rows(tape, {a, b});
  const Var picked = gather_rows(tape, joined, device_.upload(std::vector<int64_t>{2, 0, 2}, {3}));
  const Var tail = slice_rows(tape, joined, 1, 2);
  tape.backward(add(tape, total(tape, picked), total(tape, tail)));
  EXPECT_EQ(grad(a), (std::vector<double>{1, 1}));
  EXPECT_EQ(grad(b), (std::vector<double>{1, 1, 2, 2}));
}

TEST_F(TapeTest, LinearTransposedMultipliesByTheWeightItself) {
  Tape tape(device_);
  const Var x = leaf({1, 2, 3, 4}, {2, 2}), w = leaf({1, 0, 2, -1, 5, 1}, {2, 3});
  const Var y = linear_transposed(tape, x, w);
  std::vector<double> product(6);
  device_.download_bytes(y.value(), product.data());
  EXPECT_EQ(product, (std::vector<double>{-1, 10, 4, -1, 20, 10}));
  tape.backward(total(tape, mul(tape, y, leaf({1, 1, 0, 0, 1, 2}, {2, 3}))));
  EXPECT_EQ(grad(x), (std::vector<double>{1, 4, 4, 7}));
  EXPECT_EQ(grad(w), (std::vector<double>{1, 4, 6, 2, 6, 8}));
}

TEST_F(TapeTest, SlotsCarryGradientsBothWays) {
  Tape tape(device_);
  const Var pool(device_.zeros(DType::f64, {3, 1, 2}), true);
  const Sequences seqs = make_sequences(device_, {1, 1}, {0, -1}, {0, 2});
  const Var states = load_slots(tape, pool, seqs);
  const Var twice = add(tape, states, states);
  store_slots(tape, twice, pool, seqs);
  tape.backward(total(tape, mul(tape, leaf({1, 2, 3, 4, 5, 6}, {3, 1, 2}), pool)));
  // Slot 0 was doubled into itself, slot 2 overwritten with zeros, slot 1 untouched.
  EXPECT_EQ(grad(pool), (std::vector<double>{2, 4, 3, 4, 0, 0}));
}

TEST_F(TapeTest, WithoutRecordingNothingIsKept) {
  Tape tape(device_, false);
  const Var x = leaf({1, 2}, {1, 2});
  const Var y = silu(tape, x);
  EXPECT_FALSE(y.needs_grad());
  EXPECT_THROW(tape.backward(), Error);
}

TEST_F(TapeTest, AStepsMemoryReturnsToTheSameAddresses) {
  const Var w = leaf({1, 2, 3, 4, 5, 6}, {3, 2});
  const auto step = [&] {
    Tape tape(device_);
    const Var x(device_.zeros(DType::f64, {5, 2}));
    const Var y = silu(tape, linear(tape, x, w, Var()));
    tape.backward(total(tape, y));
    return std::vector<void*>{x.value().raw(), y.value().raw()};
  };
  step();
  const std::vector<void*> second = step();
  const int64_t held = device_.pool().bytes_held();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(step(), second);
  EXPECT_EQ(device_.pool().bytes_held(), held);
}

}  // namespace
}  // namespace elapse

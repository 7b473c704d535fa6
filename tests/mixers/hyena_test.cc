// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/hyena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "elapse/autograd/functions.h"

namespace elapse {
namespace {

constexpr HyenaConfig kConfig = {
    .d_model = 5, .l_max = 7, .filter_order = 6, .emb_dim = 5, .sine_freq = 14};
constexpr int64_t kTokens = 20;

// A mixer in float64, whose values and gradients agree to many digits however tokens are cut.
class Model {
 public:
  Model() : mixer_(device_, kConfig, 2, DType::f64, "", random_, parameters_) {}

  const Hyena& mixer() const { return mixer_; }

  Var input(int64_t changed = -1) {
    Random random(4);
    std::vector<double> values(static_cast<size_t>(kTokens * kConfig.d_model));
    for (double& v : values) v = random.normal();
    if (changed >= 0) values[static_cast<size_t>(changed * kConfig.d_model)] += 1;
    return Var(device_.upload(values, {kTokens, kConfig.d_model}), true);
  }

  // The output for one sequence cut into pieces of these lengths, the first from `start`.
  Var run(Tape& tape, const Var& u, const std::vector<int64_t>& pieces, const LayerState* state,
          int64_t start = 0) {
    std::vector<Var> outs;
    int64_t begin = 0;
    for (const int64_t length : pieces) {
      const Sequences seqs = state == nullptr
                                 ? make_sequences(device_, {length})
                                 : make_sequences(device_, {length}, {begin == 0 ? start : 0}, {0});
      const Var part = slice_rows(tape, u, begin, begin + length);
      outs.push_back(mixer_.forward(tape, part, seqs, state, PointScope()));
      begin += length;
    }
    return concat_rows(tape, outs);
  }

  // The output, then the gradients of a weighted sum of it.
  std::vector<std::vector<double>> all(const std::vector<int64_t>& pieces, bool with_state,
                                       int64_t start = 0) {
    parameters_.zero_grad(device_);
    const LayerState state = mixer_.make_state(device_, 1, true);
    const Var u = input();
    Tape tape(device_);
    Var out = run(tape, u, pieces, with_state ? &state : nullptr, start);
    const Tensor dout = device_.empty(DType::f64, out.shape());
    for (int64_t i = 0; i < dout.numel(); ++i) dout.data<double>()[i] = std::sin(double(i));
    out.set_grad(dout);
    tape.backward();
    std::vector<std::vector<double>> list = {numbers(out.value()), numbers(u.grad())};
    for (const Parameter& p : parameters_.all()) list.push_back(numbers(p.var.grad()));
    return list;
  }

  std::vector<double> output(const Var& u) {
    Tape tape(device_, false);
    return numbers(run(tape, u, {kTokens}, nullptr).value());
  }

 private:
  static std::vector<double> numbers(const Tensor& t) {
    return {t.data<double>(), t.data<double>() + t.numel()};
  }

  Device device_{"cpu", 2};
  Random random_{3};
  Parameters parameters_;
  Hyena mixer_;
};

void expect_near(const std::vector<std::vector<double>>& found,
                 const std::vector<std::vector<double>>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].size(), expected[i].size());
    for (size_t j = 0; j < found[i].size(); ++j) {
      EXPECT_NEAR(found[i][j], expected[i][j], 1e-11) << "value " << i << " element " << j;
    }
  }
}

TEST(Hyena, GivesTheSameHoweverTokensAreCut) {
  Model model;
  const auto whole = model.all({kTokens}, false);
  for (const auto& gradient : whole) {
    EXPECT_GT(std::abs(gradient.back()), 1e-9);  // every parameter has a part in it
  }
  expect_near(model.all({kTokens}, true), whole);
  expect_near(model.all({kTokens}, true, Sequences::kNoSlot), whole);
  expect_near(model.all({3, 1, 1, 9, 6}, true, Sequences::kNoSlot), whole);
}

// Of w, whose short filter sees two tokens more.
TEST(Hyena, SeesTheLastTokensAlone) {
  Model model;
  const std::vector<double> plain = model.output(model.input());
  const std::vector<double> changed = model.output(model.input(/*changed=*/0));
  const auto rows_agree = [&](int64_t t) {
    const auto at = static_cast<ptrdiff_t>(t * kConfig.d_model);
    const auto of_row = plain.begin() + at;
    return std::equal(of_row, of_row + kConfig.d_model, changed.begin() + at,
                      [](double a, double b) { return std::abs(a - b) < 1e-13; });
  };
  for (int64_t t = 0; t < kTokens; ++t) EXPECT_EQ(rows_agree(t), t >= kConfig.l_max + 2) << t;
}

// Products of matrices in a pass with a state, and its output's bytes.
std::pair<int64_t, std::vector<float>> decoded(bool frozen) {
  Device device("cpu", 1);
  Random random(3);
  Parameters drawn,
      frozen_ones(Parameters::Source{[&](const std::string&name, const Shape&, ParameterUse) {
                                       return drawn.find(name)->var.value();
                                     },
                                     false});
  const Hyena trained(device, kConfig, 2, DType::f32, "", random, drawn);
  const Hyena loaded(device, kConfig, 2, DType::f32, "", random, frozen_ones);
  const Hyena& mixer = frozen ? loaded : trained;
  const LayerState state = mixer.make_state(device, 1, false);
  const Var u(device.upload<float>({1, -2, 3, 0.5f, -0.25f}, {1, kConfig.d_model}));
  const int64_t before = device.calls(Op::linear_forward);
  Tape tape(device, false);
  const Tensor out =
      mixer.forward(tape, u, make_sequences(device, {1}, {0}, {0}), &state, PointScope()).value();
  return {device.calls(Op::linear_forward) - before,
          {out.data<float>(), out.data<float>() + out.numel()}};
}

TEST(Hyena, KeepsTheFilterOfFrozenParameters) {
  const auto [products, values] = decoded(false);
  const auto [frozen_products, frozen_values] = decoded(true);
  EXPECT_EQ(products, 2 + 4);
  EXPECT_EQ(frozen_products, 2);
  EXPECT_EQ(frozen_values, values);
}

}  // namespace
}  // namespace elapse

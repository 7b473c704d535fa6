// SPDX-License-Identifier: Apache-2.0
// What holds for every mixer: a state says all that a sequence needs of its past, forward and
// backward, whatever else shares the pass.
#include "elapse/model/make_mixer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "elapse/autograd/functions.h"
#include "elapse/optim/adamw.h"

namespace elapse {
namespace {

constexpr int64_t kModel = 12;
const std::vector<int64_t> kLengths = {0, 1, 70, 6};  // over a page and a chunk
constexpr int64_t kTokens = 77;

ModelConfig tiny_config(MixerKind kind) {
  ModelConfig config = ModelConfig::of(kind, kModel, 2, 8);
  if (is_mamba(kind)) config.d_state = 5;
  if (is_diagonal(kind)) config.d_state = 6;
  if (kind == MixerKind::hyena) config.l_max = 9;
  return config;
}

// The output, then the gradients of u and of the parameters, of a weighted sum of the output.
using Found = std::vector<std::vector<double>>;

// The second layer's mixer, whose dilation is 2 where there is one.
class Model {
 public:
  Model(const ModelConfig& config, const char* device, DType dtype)
      : device_(device, 2), dtype_(dtype) {
    Random random(7);
    mixer_ = make_mixer(device_, config, dtype, 1, "", random, parameters_);
  }

  Var input(int64_t tokens) {
    Random random(11);
    const Tensor u = device_.empty(dtype_, {tokens, kModel});
    for (int64_t i = 0; i < u.numel(); ++i) put(u, i, static_cast<float>(random.normal()));
    return Var(u, true);
  }

  Sequences sequences(const std::vector<int64_t>& lengths, const std::vector<int64_t>& starts,
                      const std::vector<int64_t>& ends, const std::vector<int64_t>& positions) {
    Sequences seqs = make_sequences(device_, lengths, starts, ends);
    seqs.positions = positions;
    return seqs;
  }

  Found backward(Tape& tape, const Var& u, Var out) {
    parameters_.zero_grad(device_);
    const Tensor dout = device_.empty(dtype_, out.shape());
    for (int64_t i = 0; i < dout.numel(); ++i) put(dout, i, std::sin(static_cast<double>(i)));
    out.set_grad(dout);
    tape.backward();
    Found found = {numbers(out.value()), numbers(u.grad())};
    for (const Parameter& p : parameters_.all()) found.push_back(numbers(p.var.grad()));
    return found;
  }

  std::vector<double> numbers(const Tensor& t) const {
    std::vector<double> list;
    for (int64_t i = 0; i < t.numel(); ++i) {
      list.push_back(dtype_ == DType::f64 ? t.data<double>()[i] : t.data<float>()[i]);
    }
    return list;
  }

  Device& device() { return device_; }
  const Mixer& mixer() const { return *mixer_; }
  const Parameters& parameters() const { return parameters_; }

 private:
  void put(const Tensor& t, int64_t i, double value) const {
    if (dtype_ == DType::f64) t.data<double>()[i] = value;
    else t.data<float>()[i] = static_cast<float>(value);
  }

  Device device_;
  DType dtype_;
  Parameters parameters_;
  std::unique_ptr<Mixer> mixer_;
};

Found whole(Model& model) {
  const Var u = model.input(kTokens);
  Tape tape(model.device());
  const Sequences seqs = model.sequences(kLengths, {}, {}, {});
  return model.backward(tape, u, model.mixer().forward(tape, u, seqs, nullptr, PointScope()));
}

// The same in passes, each of which takes so many tokens of each sequence.
Found in_passes(Model& model, const std::vector<std::vector<int64_t>>& passes) {
  const auto count = static_cast<int64_t>(kLengths.size());
  const LayerState state = model.mixer().make_state(model.device(), count, true);
  const Var u = model.input(kTokens);
  Tape tape(model.device());
  std::vector<std::vector<Var>> outs(kLengths.size());
  std::vector<int64_t> taken(kLengths.size()), own = {0, 1, 2, 3};
  for (const std::vector<int64_t>& lengths : passes) {
    std::vector<Var> parts;
    int64_t begin = 0;
    for (size_t s = 0; s < kLengths.size(); begin += kLengths[s++]) {
      const int64_t from = begin + taken[s];
      if (lengths[s] > 0) parts.push_back(slice_rows(tape, u, from, from + lengths[s]));
    }
    // Zeros are what a new state has.
    const bool is_first = &lengths == &passes.front();
    const std::vector<int64_t> starts = {0, Sequences::kNoSlot, 2, Sequences::kNoSlot};
    const Sequences seqs = model.sequences(lengths, is_first ? starts : own, own, taken);
    const Var out =
        model.mixer().forward(tape, concat_rows(tape, parts), seqs, &state, PointScope());
    int64_t row = 0;
    for (size_t s = 0; s < kLengths.size(); row += lengths[s++]) {
      if (lengths[s] > 0) outs[s].push_back(slice_rows(tape, out, row, row + lengths[s]));
      taken[s] += lengths[s];
    }
  }
  EXPECT_EQ(taken, kLengths);
  std::vector<Var> in_order;
  for (const std::vector<Var>& of_sequence : outs) {
    in_order.insert(in_order.end(), of_sequence.begin(), of_sequence.end());
  }
  return model.backward(tape, u, concat_rows(tape, in_order));
}

std::vector<std::vector<int64_t>> token_by_token() {
  std::vector<std::vector<int64_t>> passes(70);
  for (size_t t = 0; t < passes.size(); ++t) {
    for (const int64_t length : kLengths) passes[t].push_back(static_cast<int64_t>(t) < length);
  }
  return passes;
}

constexpr int64_t kTrunk = 66, kFirst = 5, kSecond = 3;

// Two sequences that begin alike: the first, and what the second has of its own.
Found apart(Model& model) {
  const Var u = model.input(kTrunk + kFirst + kSecond);
  Tape tape(model.device());
  const Var trunk = slice_rows(tape, u, 0, kTrunk);
  const Var second = slice_rows(tape, u, kTrunk + kFirst, kTrunk + kFirst + kSecond);
  const Var both = concat_rows(tape, {slice_rows(tape, u, 0, kTrunk + kFirst), trunk, second});
  const Sequences seqs = model.sequences({kTrunk + kFirst, kTrunk + kSecond}, {}, {}, {});
  const Var out = model.mixer().forward(tape, both, seqs, nullptr, PointScope());
  const int64_t end = 2 * kTrunk + kFirst + kSecond;
  return model.backward(tape, u,
                        concat_rows(tape, {slice_rows(tape, out, 0, kTrunk + kFirst),
                                           slice_rows(tape, out, end - kSecond, end)}));
}

Found forked(Model& model) {
  const LayerState state = model.mixer().make_state(model.device(), 3, true);
  const Var u = model.input(kTrunk + kFirst + kSecond);
  Tape tape(model.device());
  const Var trunk = slice_rows(tape, u, 0, kTrunk);
  const Sequences first = model.sequences({kTrunk}, {Sequences::kNoSlot}, {0}, {0});
  const Var start = model.mixer().forward(tape, trunk, first, &state, PointScope());
  const Var rest = slice_rows(tape, u, kTrunk, kTrunk + kFirst + kSecond);
  const Sequences then = model.sequences({kFirst, kSecond}, {0, 0}, {1, 2}, {kTrunk, kTrunk});
  const Var ends = model.mixer().forward(tape, rest, then, &state, PointScope());
  return model.backward(tape, u, concat_rows(tape, {start, ends}));
}

// Each value within `tolerance` of the largest beside it.
void expect_near(const Found& found, const Found& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].size(), expected[i].size());
    double largest = 0, off = 0;
    for (size_t j = 0; j < found[i].size(); ++j) {
      ASSERT_TRUE(std::isfinite(found[i][j])) << "value " << i << " element " << j;
      largest = std::max(largest, std::abs(expected[i][j]));
      off = std::max(off, std::abs(found[i][j] - expected[i][j]));
    }
    EXPECT_LE(off, tolerance * largest) << "value " << i << " of size " << largest;
  }
}

class EveryMixer : public testing::TestWithParam<std::string> {
 protected:
  // In float64 on ref against `whole`, and in float on cpu against the same.
  void expect_same(const std::function<Found(Model&)>& whole,
                   const std::function<Found(Model&)>& otherwise) {
    const ModelConfig config = tiny_config(mixer_named(GetParam()));
    Model exact(config, "ref", DType::f64), fast(config, "cpu", DType::f32);
    const Found expected = whole(exact);
    for (const auto& values : expected) {
      EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](double v) { return v != 0; }));
    }
    expect_near(otherwise(exact), expected, 1e-12);
    expect_near(whole(fast), expected, kFloat);
    expect_near(otherwise(fast), expected, kFloat);
  }

  static constexpr double kFloat = 1e-4;  // three times the largest difference there is
};

TEST_P(EveryMixer, AnyCuttingIsTheWholeWithItsGradients) {
  expect_same(whole, [](Model& m) { return in_passes(m, {{0, 1, 70, 6}}); });
  expect_same(whole, [](Model& m) {
    return in_passes(m, {{0, 0, 3, 1}, {0, 1, 0, 4}, {0, 0, 66, 1}, {0, 0, 1, 0}});
  });
  expect_same(whole, [](Model& m) { return in_passes(m, token_by_token()); });
}

TEST_P(EveryMixer, ForksSendTheirGradientsBack) { expect_same(apart, forked); }

// The sum that Model::backward differentiates.
double weighted_sum(Model& model, const Var& u) {
  Tape tape(model.device(), false);
  const Sequences seqs = model.sequences(kLengths, {}, {}, {});
  const std::vector<double> out =
      model.numbers(model.mixer().forward(tape, u, seqs, nullptr, PointScope()).value());
  double sum = 0;
  for (size_t i = 0; i < out.size(); ++i) sum += out[i] * std::sin(static_cast<double>(i));
  return sum;
}

// Of the whole mixer in float64, at some elements of its input and of every parameter. A central
// difference is off by the step's square, and by the rounding of both sums over the step.
TEST_P(EveryMixer, GradientsAreThoseOfFiniteDifferences) {
  constexpr double kStep = 1e-5;
  constexpr int64_t kElements = 9;
  Model model(tiny_config(mixer_named(GetParam())), "ref", DType::f64);
  const Found found = whole(model);
  double size = 0;
  for (const double out : found.front()) size += std::abs(out);
  const double rounding = size * 0x1p-52 / kStep;
  const Var u = model.input(kTokens);
  std::vector<Var> varied = {u};
  for (const Parameter& p : model.parameters().all()) varied.push_back(p.var);
  ASSERT_EQ(found.size(), varied.size() + 1);  // the output is the first
  for (size_t v = 0; v < varied.size(); ++v) {
    const std::vector<double>& gradient = found[v + 1];
    double largest = 0;
    for (const double g : gradient) largest = std::max(largest, std::abs(g));
    const auto count = static_cast<int64_t>(gradient.size());
    for (int64_t i = 0; i < count; i += std::max<int64_t>(1, count / kElements)) {
      double& value = varied[v].value().data<double>()[i];
      const double was = value;
      value = was + kStep;
      const double above = weighted_sum(model, u);
      value = was - kStep;
      const double below = weighted_sum(model, u);
      value = was;
      EXPECT_NEAR((above - below) / (2 * kStep), gradient[static_cast<size_t>(i)],
                  1e-6 * largest + rounding)
          << "variable " << v << " element " << i;
    }
  }
}

// Kernels that a pass over one sequence calls, forward and backward.
std::vector<int64_t> calls_of_a_pass(MixerKind kind, int64_t length) {
  Model model(tiny_config(kind), "cpu", DType::f32);
  const auto counts = [&] {
    std::vector<int64_t> list;
    for (size_t op = 0; op < static_cast<size_t>(Op::count); ++op) {
      list.push_back(model.device().calls(static_cast<Op>(op)));
    }
    return list;
  };
  const std::vector<int64_t> before = counts();
  const Var u = model.input(length);
  Tape tape(model.device());
  const Sequences seqs = model.sequences({length}, {}, {}, {});
  model.backward(tape, u, model.mixer().forward(tape, u, seqs, nullptr, PointScope()));
  std::vector<int64_t> calls = counts();
  std::transform(calls.begin(), calls.end(), before.begin(), calls.begin(), std::minus<>());
  return calls;
}

// No mixer walks its tokens by calls: how work grows with the length is its kernels' own matter,
// of which tests/experiments/scaling_test.cc has the orders.
TEST_P(EveryMixer, CallsAsManyKernelsWhateverTheLength) {
  const MixerKind kind = mixer_named(GetParam());
  const std::vector<int64_t> expected = calls_of_a_pass(kind, 64);
  for (const int64_t length : {2, 63, 65, 200, 1024}) {
    EXPECT_EQ(calls_of_a_pass(kind, length), expected) << length;
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryMixer, testing::ValuesIn(mixer_names()),
                         [](const auto& name) { return name.param; });

// Of the parameters, by name, after a step of training at that rate.
std::map<std::string, std::vector<double>> stepped(MixerKind kind, double lr) {
  Model model(tiny_config(kind), "ref", DType::f64);
  whole(model);
  AdamWOptimizer optimizer(model.device(), model.parameters(), {.max_norm = 0});
  optimizer.update(lr);
  std::map<std::string, std::vector<double>> values;
  for (const Parameter& p : model.parameters().all()) values[p.name] = model.numbers(p.var.value());
  return values;
}

// As published S4 and H3 train them: poles and step sizes by 1e-3 at most, all else as told.
TEST(StateSpaces, TrainTheirDynamicsAtAThousandthAtMost) {
  for (const MixerKind kind : {MixerKind::s4d, MixerKind::h3}) {
    const auto slow = stepped(kind, 1e-3), fast = stepped(kind, 5e-3);
    std::set<std::string> capped;
    for (const auto& [name, values] : slow) {
      if (fast.at(name) == values) capped.insert(name.substr(name.rfind('.') + 1));
    }
    EXPECT_EQ(capped, (std::set<std::string>{"A_imag", "log_A_real", "log_dt"})) << name_of(kind);
  }
  for (const MixerKind kind : {MixerKind::mamba, MixerKind::mamba2, MixerKind::hyena}) {
    const auto slow = stepped(kind, 1e-3), fast = stepped(kind, 5e-3);
    for (const auto& [name, values] : slow) EXPECT_NE(fast.at(name), values) << name;
  }
}

// The gate that is not there changes no bit.
TEST(Mamba, WithoutAGateTheOutputIsTheScans) {
  ModelConfig config = tiny_config(MixerKind::mamba);
  config.choose_selection(true, true, true, false);
  for (const auto& [device, dtype] : {std::pair("ref", DType::f64), {"cpu", DType::f32}}) {
    Model model(config, device, dtype);
    Points points;
    points.watch("ssm_out");
    points.watch("gated");
    const PassRows rows = {.lengths = kLengths, .starts = {0, 0, 0, 0}, .logit_rows = {}};
    const PointPass pass(model.device(), points, model.mixer().points(), rows);
    Tape tape(model.device(), false);
    model.mixer().forward(tape, model.input(kTokens), model.sequences(kLengths, {}, {}, {}),
                          nullptr, PointScope(&pass));
    EXPECT_EQ(model.numbers(points.value("gated")), model.numbers(points.value("ssm_out")));
  }
}

}  // namespace
}  // namespace elapse

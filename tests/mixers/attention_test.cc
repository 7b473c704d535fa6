// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "elapse/autograd/functions.h"
#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr int64_t kLength = 150;  // more than two pages

std::vector<AttentionConfig> configs() {
  const AttentionConfig one = {.d_model = 12, .n_heads = 4, .n_kv_heads = 2, .head_dim = 6};
  std::vector<AttentionConfig> list(7, one);
  list[1].positions = Positions::none;
  list[1].qkv_bias = list[1].out_bias = true;
  list[2].positions = Positions::xpos;
  list[2].n_kv_heads = 1;
  list[3].window = 70;
  list[3].n_kv_heads = 4;
  list[4].window = 1;
  list[5].window = 64;
  list[5].dilation = 5;
  list[6].dilation = 3;
  list[6].head_dim = 2;
  return list;
}

// A mixer in float64, whose values and gradients agree to many digits however tokens are cut.
class Model {
 public:
  explicit Model(const AttentionConfig& config) : config_(config) {
    mixer_ = std::make_unique<Attention>(device_, config, 2, DType::f64, "", random_, parameters_);
    // Weights as drawn would leave every weight of the softmax nearly the same.
    for (const Parameter& p : parameters_.all()) {
      double* data = p.var.value().data<double>();
      for (int64_t i = 0; i < p.var.value().numel(); ++i) data[i] = random_.normal();
    }
  }

  Var input(int64_t tokens) {
    std::vector<double> values(static_cast<size_t>(tokens * config_.d_model));
    for (double& v : values) v = random_.normal();
    return Var(device_.upload(values, {tokens, config_.d_model}), true);
  }

  // The output of rows [begin, end) of u, one sequence, from slot `from` to slot `to`.
  Var run(Tape& tape, const Var& u, int64_t begin, int64_t end, const LayerState* state,
          int64_t from = 0, int64_t to = 0) {
    const Var part = slice_rows(tape, u, begin, end);
    const Sequences seqs = state == nullptr ? make_sequences(device_, {end - begin})
                                            : make_sequences(device_, {end - begin}, {from}, {to});
    return mixer_->forward(tape, part, seqs, state, PointScope());
  }

  struct Gradients {
    std::vector<double> outputs;
    std::vector<std::vector<double>> of;  // of u, then of the parameters
  };
  // Of a weighted sum of the outputs.
  Gradients backward(Tape& tape, const Var& u, const std::vector<Var>& outputs) {
    parameters_.zero_grad(device_);
    const Var y = outputs.size() == 1 ? outputs.front() : concat_rows(tape, outputs);
    Random random(99);
    std::vector<double> weights(static_cast<size_t>(y.value().numel()));
    for (double& w : weights) w = random.normal();
    Var(y).set_grad(device_.upload(weights, y.value().shape()));
    tape.backward();
    Gradients gradients = {host(y.value()), {host(u.grad())}};
    for (const Parameter& p : parameters_.all()) gradients.of.push_back(host(p.var.grad()));
    return gradients;
  }

  std::vector<double> host(const Tensor& t) {
    std::vector<double> values(static_cast<size_t>(t.numel()));
    device_.download_bytes(t, values.data());
    return values;
  }

  Device& device() { return device_; }
  const Attention& mixer() const { return *mixer_; }
  Random& random() { return random_; }

 private:
  Device device_{"ref", 1};
  Random random_{7};
  AttentionConfig config_;
  Parameters parameters_;
  std::unique_ptr<Attention> mixer_;
};

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 1;
  for (const double e : expected) largest = std::max(largest, std::abs(e));
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], 1e-11 * largest) << "element " << i;
  }
}

void expect_near(const Model::Gradients& actual, const Model::Gradients& expected) {
  expect_near(actual.outputs, expected.outputs);
  ASSERT_EQ(actual.of.size(), expected.of.size());
  for (size_t i = 0; i < actual.of.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "gradient " << i);
    expect_near(actual.of[i], expected.of[i]);
  }
}

TEST(AttentionMixer, AnyCuttingIsTheWholeWithItsGradients) {
  for (const AttentionConfig& config : configs()) {
    SCOPED_TRACE(testing::Message()
                 << "window " << config.window << " dilation " << config.dilation);
    Model model(config);
    const Var u = model.input(kLength);
    Tape tape(model.device());
    const Model::Gradients whole =
        model.backward(tape, u, {model.run(tape, u, 0, kLength, nullptr)});
    const std::vector<std::vector<int64_t>> cuttings = {
        std::vector<int64_t>(kLength, 1), {1, 63, 1, 85}, {149, 1}, {70, 0, 80}};
    for (const std::vector<int64_t>& lengths : cuttings) {
      const Var again(u.value(), true);
      const LayerState state = model.mixer().make_state(model.device(), 1, true);
      Tape cut(model.device());
      std::vector<Var> outputs;
      int64_t begin = 0;
      for (const int64_t length : lengths) {
        outputs.push_back(model.run(cut, again, begin, begin + length, &state));
        begin += length;
      }
      EXPECT_EQ(state.memory->length(0), kLength);
      expect_near(model.backward(cut, again, outputs), whole);
    }
  }
}

// Gradients of two ways on from one state add up where the ways part.
TEST(AttentionMixer, ForksSendTheirGradientsBack) {
  constexpr int64_t kParting = 70, kEnd = 75;
  for (const AttentionConfig& config : configs()) {
    Model model(config);
    const Var u = model.input(kEnd + 5);  // two ends of 5 tokens
    Tape tape(model.device());
    const Var trunk = model.run(tape, u, 0, kParting, nullptr);
    const Var first = model.run(tape, u, 0, kEnd, nullptr);
    const Var other_input =
        concat_rows(tape, {slice_rows(tape, u, 0, kParting), slice_rows(tape, u, kEnd, kEnd + 5)});
    const Var second = model.run(tape, other_input, 0, kEnd, nullptr);
    const Model::Gradients expected = model.backward(
        tape, u,
        {trunk, slice_rows(tape, first, kParting, kEnd), slice_rows(tape, second, kParting, kEnd)});

    const Var again(u.value(), true);
    const LayerState state = model.mixer().make_state(model.device(), 3, true);
    Tape forked(model.device());
    const Var start = model.run(forked, again, 0, kParting, &state, 0, 0);
    const Var both = model.mixer().forward(forked, slice_rows(forked, again, kParting, kEnd + 5),
                                           make_sequences(model.device(), {5, 5}, {0, 0}, {1, 2}),
                                           &state, PointScope());
    EXPECT_EQ(state.memory->length(0), kParting);
    EXPECT_EQ(state.memory->length(2), kEnd);
    expect_near(model.backward(forked, again, {start, both}), expected);
  }
}

// Without gradients through the state, what it remembers is a number.
TEST(AttentionMixer, AStateThatNeedsNoGradientTakesNone) {
  Model model(configs().front());
  const Var u = model.input(20);
  const LayerState state = model.mixer().make_state(model.device(), 1, false);
  Tape tape(model.device());
  model.run(tape, u, 0, 10, &state);
  const Var later = model.run(tape, u, 10, 20, &state);
  const Model::Gradients gradients = model.backward(tape, u, {later});
  for (size_t i = 0; i < 10 * 12; ++i) EXPECT_EQ(gradients.of[0][i], 0);
}

TEST(AttentionMixer, AStateForksSavesAndComparesWithItsMemory) {
  Model model(configs().front());
  const Var u = model.input(100);
  Tape tape(model.device(), false);
  std::vector<LayerState> layers = {model.mixer().make_state(model.device(), 2, false)};
  State state(model.device(), std::move(layers), 2);
  EXPECT_EQ(state.bytes_per_slot(), 0);
  EXPECT_EQ(state.bytes_per_token(), 2 * 2 * 6 * 8);
  EXPECT_EQ(state.bytes(0), 0);
  model.run(tape, u, 0, 65, state.layers().data());
  EXPECT_EQ(state.bytes(0), 2 * TokenMemory::kPageTokens * state.bytes_per_token());
  EXPECT_EQ(state.bytes(1), 0);
  State fork = state.fork({1, 0, 0});
  EXPECT_EQ(fork.layers()[0].memory->pages(), 2);
  EXPECT_TRUE(fork.fork({1, 2}).same_bits(state.fork({0, 0})));
  const auto a = model.host(model.run(tape, u, 65, 100, fork.layers().data(), 1, 1).value());
  const auto b = model.host(model.run(tape, u, 65, 100, state.layers().data()).value());
  EXPECT_EQ(a, b);
  EXPECT_FALSE(fork.fork({1, 2}).same_bits(state.fork({0, 0})));
  state.reset();
  EXPECT_EQ(state.bytes(0), 0);
  EXPECT_EQ(state.layers()[0].memory->length(0), 0);
}

// xPos after Sun et al.: a key d tokens back counts zeta^(d / 512) of what it does beside the
// query, in channels that turn by theta^(-2 i / head_dim).
TEST(AttentionMixer, XposFadesWithTheDistance) {
  constexpr int64_t kHeadDim = 4, kDistance = 40;
  Model model({.d_model = kHeadDim,
               .n_heads = 1,
               .n_kv_heads = 1,
               .head_dim = kHeadDim,
               .positions = Positions::xpos});
  Points points;
  points.watch("rot_q");
  points.watch("rot_k");
  const Var u = model.input(kDistance + 1);
  Tape tape(model.device(), false);
  const PassRows rows = {.lengths = {kDistance + 1}, .starts = {0}, .logit_rows = {}};
  const PointPass pass(model.device(), points, model.mixer().points(), rows);
  model.mixer().forward(tape, u, make_sequences(model.device(), {kDistance + 1}), nullptr,
                        PointScope(&pass));
  const auto q = model.host(points.value("rot_q")), k = model.host(points.value("rot_k"));
  const auto plain = [&](const char* name, int64_t token, int64_t i) {
    Points raw;
    raw.watch(name);
    const PointPass again(model.device(), raw, model.mixer().points(), rows);
    model.mixer().forward(tape, u, make_sequences(model.device(), {kDistance + 1}), nullptr,
                          PointScope(&again));
    return model.host(raw.value(name))[static_cast<size_t>(token * kHeadDim + i)];
  };
  double score = 0, expected = 0;
  for (int64_t i = 0; i < kHeadDim; ++i) {
    score += q[static_cast<size_t>(kDistance * kHeadDim + i)] * k[static_cast<size_t>(i)];
  }
  for (int64_t i = 0; i < 2; ++i) {
    const double zeta = (2.0 * static_cast<double>(i) / kHeadDim + 0.4) / 1.4;
    const double angle = kDistance * std::pow(10000.0, -2.0 * static_cast<double>(i) / kHeadDim);
    const double a = plain("q", kDistance, i), b = plain("q", kDistance, i + 2);
    const double c = plain("k", 0, i), d = plain("k", 0, i + 2);
    expected += std::pow(zeta, kDistance / 512.0) *
                ((a * c + b * d) * std::cos(angle) + (a * d - b * c) * std::sin(angle));
  }
  EXPECT_NEAR(score, expected, 1e-12);
}

// Where its scales would leave float32's range, amid a session.
TEST(AttentionMixer, XposEndsWhereItsScalesDo) {
  constexpr int64_t kEnd = 24'521, kWidth = 4;
  Model model({.d_model = kWidth,
               .n_heads = 1,
               .n_kv_heads = 1,
               .head_dim = kWidth,
               .positions = Positions::xpos,
               .window = 2});
  const LayerState state = model.mixer().make_state(model.device(), 1, false);
  const Tensor row = model.device().zeros(DType::f64, {1, kWidth});
  state.memory->restore(model.device(), {kEnd - 1}, {row, row});
  const Var u = model.input(1);
  Tape tape(model.device(), false);
  model.run(tape, u, 0, 1, &state);
  EXPECT_EQ(state.memory->length(0), kEnd);
  try {
    model.run(tape, u, 0, 1, &state);
    FAIL() << "the next position has scales";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("reach position 24522, but sequence 0 goes to 24522"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(state.memory->length(0), kEnd);
}

}  // namespace
}  // namespace elapse

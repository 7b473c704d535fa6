// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/graph.h"

#include <gtest/gtest.h>

#include "elapse/model/by_tokens.h"
#include "tests/interpret/planted.h"

namespace elapse {
namespace {

constexpr uint64_t kOwn = 1, kOther = 2;

LanguageModel some_model(Device& device, DType dtype, MixerKind mixer = MixerKind::mamba) {
  ModelConfig config =
      mixer == MixerKind::mamba ? ModelConfig::mamba(20, 3, 8) : ModelConfig::mamba2(20, 3, 8);
  config.d_state = 4;
  return {device, config, dtype, 5};
}

void expect_near(const LastLogits& a, const LastLogits& b, double tolerance) {
  ASSERT_EQ(a.values.size(), b.values.size());
  for (size_t i = 0; i < a.values.size(); ++i) ASSERT_NEAR(a.values[i], b.values[i], tolerance);
}

TEST(ResidualGraph, NumbersEveryEdgeOnce) {
  const ResidualGraph graph(48);
  EXPECT_EQ(graph.edges(), 1225);
  for (int64_t i = 0; i < graph.edges(); ++i) {
    const Edge edge = graph.edge(i);
    EXPECT_LT(edge.from, edge.to);
    EXPECT_EQ(graph.index(edge), i);
  }
  EXPECT_EQ(graph.name(Edge{0, 49}), "embed -> unembed");
  EXPECT_EQ(graph.name(Edge{3, 4}), "layers.2 -> layers.3");
}

TEST(CircuitRunner, WithAllEdgesIsTheModelBitForBit) {
  if (verify_mode() != VerifyMode::none) GTEST_SKIP() << "circuits always run in parallel";
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 2);
    const LanguageModel model = some_model(device, DType::f32);
    const TokenLists own = planted::sequences(kOwn), other = planted::sequences(kOther);
    const CircuitRunner runner(model, own, other);
    const LastLogits expected = last_logits(model, pack(model, own));
    EXPECT_EQ(runner.run({Circuit(3)}).front().values, expected.values);
    EXPECT_EQ(runner.plain().values, expected.values);
  }
}

// A mixer and an MLP a layer: two blocks each.
TEST(CircuitRunner, BlocksOfMlpsAreNodesOfTheirOwn) {
  ModelConfig hybrid = ModelConfig::mamba(20, 2, 8), plain = ModelConfig::gpt2(20, 2, 8, 64);
  hybrid.d_intermediate = 12;
  for (const ModelConfig& config : {hybrid, plain}) {
    const ResidualGraph graph(config);
    EXPECT_EQ(graph.nodes(), 6);
    EXPECT_EQ(graph.name(Edge{2, 3}), "layers.0.mlp -> layers.1");
    Device device("cpu", 2);
    const LanguageModel model(device, config, DType::f32, 5);
    const TokenLists own = planted::sequences(kOwn), other = planted::sequences(kOther);
    const CircuitRunner runner(model, own, other);
    if (verify_mode() == VerifyMode::none) {
      EXPECT_EQ(runner.plain().values, last_logits(model, pack(model, own)).values);
    }
    expect_near(runner.other(), last_logits(model, pack(model, other)), 1e-5);
    // Without what the first MLP says to the unembedding: as if that alone were the other run's.
    Circuit cut(4);
    cut.set({2, 5}, false);
    Points points;
    const Tensor mean = device.empty(DType::f32, runner.own_outputs()[2].shape());
    const Tensor minus = device.empty(DType::f32, {1, 1});
    fill(device, {minus, -1});
    binary(device, {BinaryFunction::mul, runner.own_outputs()[2], minus, mean});
    binary(device, {BinaryFunction::add, runner.other_outputs()[2], mean, mean});
    points.edit({"layers.1.resid_post", EditOp::add, mean});
    Tape tape(device, false);
    const Var logits = model.forward(tape, pack(model, own), nullptr, &points);
    expect_near(runner.run({cut}).front(), last_logits(model, logits.value()), 1e-5);
  }
}

TEST(CircuitRunner, WithoutEdgesOfTheUnembeddingIsTheOtherRun) {
  Device device("ref");
  for (const MixerKind mixer : {MixerKind::mamba, MixerKind::mamba2}) {
    const LanguageModel model = some_model(device, DType::f64, mixer);
    const CircuitRunner runner(model, planted::sequences(kOwn), planted::sequences(kOther));
    expect_near(runner.other(), last_logits(model, pack(model, planted::sequences(kOther))), 1e-12);
    Circuit none(3, false), last(3);
    for (int64_t from = 0; from < 4; ++from) last.set({from, 4}, false);
    for (const LastLogits& logits : runner.run({none, last})) {
      expect_near(logits, runner.other(), 1e-12);
    }
  }
}

TEST(CircuitRunner, DoesNotRunWhomNobodyHears) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  const CircuitRunner runner(model, planted::sequences(kOwn), planted::sequences(kOther));
  Circuit one(3, false);
  one.set({2, 4}, true);
  const int64_t before = model.path_counts().layer_tokens;
  runner.run({Circuit(3, false)});
  EXPECT_EQ(model.path_counts().layer_tokens, before);
  runner.run({one});
  EXPECT_EQ(model.path_counts().layer_tokens, before + runner.tokens());
}

TEST(CircuitRunner, FromTheSameRunChangesNothing) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  const CircuitRunner runner(model, planted::sequences(kOwn), planted::sequences(kOwn));
  Circuit some(3);
  some.set({0, 2}, false);
  some.set({1, 4}, false);
  expect_near(runner.run({some}).front(), runner.plain(), 1e-12);
}

// All edges out of a node: what the node wrote, wherever it is read.
TEST(CircuitRunner, AllEdgesOutOfANodeAreTheNode) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  const TokenLists own = planted::sequences(kOwn), other = planted::sequences(kOther);
  const CircuitRunner runner(model, own, other);
  for (int64_t node = 0; node < 4; ++node) {
    Circuit circuit(3);
    circuit.set_from(node, false);
    const std::string point = node == 0 ? "embed" : fmt::format("layers.{}.mixer.out", node - 1);
    Points points;
    points.edit({point, EditOp::set, runner.other_outputs()[static_cast<size_t>(node)]});
    Tape tape(device, false);
    const LastLogits patched =
        last_logits(model, model.forward(tape, pack(model, own), nullptr, &points).value());
    expect_near(runner.run({circuit}).front(), patched, 1e-12);
  }
}

// in <- in - o(own) + o(other) at one token of the reader's private input.
TEST(CircuitRunner, AnEdgeAtOnePositionIsAnEditOfTheReadersInput) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  const TokenLists own = planted::sequences(kOwn), other = planted::sequences(kOther);
  CircuitRunner runner(model, own, other);
  for (const int64_t position : {0, 3, -1}) {
    runner.cut_at({position});
    for (const Edge edge : {Edge{0, 1}, Edge{0, 3}, Edge{2, 3}}) {
      Circuit circuit(3);
      circuit.set(edge, false);
      const auto from = static_cast<size_t>(edge.from);
      const Tensor change = device.empty(DType::f64, runner.own_outputs()[from].shape());
      const Tensor minus = device.upload(std::vector<double>{-1}, {1, 1});
      binary(device, {BinaryFunction::mul, runner.own_outputs()[from], minus, change});
      binary(device, {BinaryFunction::add, runner.other_outputs()[from], change, change});
      const int64_t length = std::ssize(own.front()), at = position < 0 ? length - 1 : position;
      Points points;
      for (int64_t s = 0; s < std::ssize(own); ++s) {
        points.edit({fmt::format("layers.{}.layer_input", edge.to - 1),
                     EditOp::add,
                     change.rows(s * length + at, s * length + at + 1),
                     {.sequences = {s}, .positions = {at}}});
      }
      Tape tape(device, false);
      const LastLogits patched =
          last_logits(model, model.forward(tape, pack(model, own), nullptr, &points).value());
      expect_near(runner.run({circuit}).front(), patched, 1e-12);
    }
  }
  EXPECT_THROW(runner.cut_at({5}), Error);
  EXPECT_THROW(runner.cut_at({-6}), Error);
}

TEST(CircuitRunner, BatchesOfCircuitsAndWhatIsNotRunAgainChangeNothing) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  const TokenLists own = planted::sequences(kOwn), other = planted::sequences(kOther);
  const CircuitRunner many(model, own, other), one(model, own, other, 1);
  std::vector<Circuit> circuits;
  for (int64_t i = 0; i < ResidualGraph(3).edges(); ++i) {
    circuits.emplace_back(3);
    circuits.back().set(ResidualGraph(3).edge(i), false);
  }
  const int64_t before = model.path_counts().layer_tokens;
  const std::vector<LastLogits> apart = one.run(circuits);
  const int64_t spent = model.path_counts().layer_tokens - before;
  // The edges into each node, run from it on: 1 x 3 layers, 2 x 2, 3 x 1 and 4 x 0, of 10 x 3.
  EXPECT_EQ(spent, 10 * one.tokens());
  const std::vector<LastLogits> together = many.run(circuits);
  for (size_t i = 0; i < circuits.size(); ++i) expect_near(apart[i], together[i], 1e-12);
}

// Means over one run are that run, and over two lie between.
TEST(CircuitRunner, TakesMeansOfRuns) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  const TokenLists own = planted::sequences(kOwn), a = planted::sequences(kOther),
                   b = planted::sequences(9);
  Circuit circuit(3);
  circuit.set_from(2, false);
  const CircuitRunner pairs(model, own, a), means(model, own, mean_outputs(model, {a}));
  expect_near(pairs.run({circuit}).front(), means.run({circuit}).front(), 1e-12);
  const NodeOutputs both = mean_outputs(model, {a, b}), one = mean_outputs(model, {a}),
                    other = mean_outputs(model, {b});
  for (size_t i = 0; i < both.size(); ++i) {
    const auto mean = host_values(device, both[i]), x = host_values(device, one[i]),
               y = host_values(device, other[i]);
    for (size_t k = 0; k < mean.size(); ++k) EXPECT_NEAR(mean[k], (x[k] + y[k]) / 2, 1e-12);
  }
  EXPECT_THROW(CircuitRunner(model, own, NodeOutputs(2)), Error);
}

TEST(CircuitRunner, RefusesPairsOfOtherLengths) {
  Device device("ref");
  const LanguageModel model = some_model(device, DType::f64);
  EXPECT_THROW(CircuitRunner(model, {{1, 2}}, TokenLists{{1}}), Error);
  EXPECT_THROW(CircuitRunner(model, {{1, 2}}, TokenLists{}), Error);
  EXPECT_THROW(CircuitRunner(model, {{1, 8}}, TokenLists{{1, 1}}), Error);
  EXPECT_THROW(CircuitRunner(model, {{}}, TokenLists{{}}), Error);
}

}  // namespace
}  // namespace elapse

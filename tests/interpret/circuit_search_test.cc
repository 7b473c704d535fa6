// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/circuit_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "elapse/interpret/metrics.h"
#include "tests/interpret/planted.h"

namespace elapse {
namespace {

class Search : public testing::Test {
 protected:
  Search()
      : device_("ref"),
        model_(planted::model(device_)),
        runner_(model_, planted::sequences(1), planted::sequences(2)) {}

  Distance kl() const {
    return
        [this](const LastLogits& logits) { return mean(kl_divergences(runner_.plain(), logits)); };
  }
  double whole() const { return kl()(runner_.other()); }  // of the empty circuit

  Device device_;
  LanguageModel model_;
  CircuitRunner runner_;
};

TEST_F(Search, ThePlantedModelHasSomethingToFind) {
  EXPECT_EQ(kl()(runner_.plain()), 0);
  EXPECT_GT(whole(), 0.05);
}

TEST_F(Search, AcdcFindsThePlantedCircuit) {
  for (const int64_t together : {1, 3, 8}) {
    const AcdcResult found = acdc(runner_, kl(), 0.01 * whole(), together);
    EXPECT_EQ(found.circuit.edges(), planted::kCircuit) << together << " together";
    EXPECT_LT(found.distance, 0.05 * whole());
    EXPECT_EQ(std::ssize(found.steps), ResidualGraph(4).edges());
  }
}

TEST_F(Search, AcdcTriesTogetherWhatItWouldTryOneByOne) {
  for (const double threshold : {1e-12, 1e-5, 1e9}) {
    const AcdcResult one = acdc(runner_, kl(), threshold, 1);
    const AcdcResult many = acdc(runner_, kl(), threshold, 5);
    EXPECT_TRUE(one.circuit == many.circuit);
    for (size_t i = 0; i < one.steps.size(); ++i) EXPECT_EQ(one.steps[i].edge, many.steps[i].edge);
  }
  EXPECT_EQ(acdc(runner_, kl(), 1e9).circuit.size(), 0);
}

TEST_F(Search, GreedyFindsThePlantedCircuit) {
  // By layer: everything else stays cut off, but for what each layer reads and writes.
  std::vector<std::vector<Edge>> edges;
  for (int64_t i = 0; i < ResidualGraph(4).edges(); ++i)
    edges.push_back({ResidualGraph(4).edge(i)});
  Circuit start(4, false);
  start.set({0, planted::kLayer1}, true);
  start.set({planted::kLayer1, planted::kLayer2}, true);
  const GreedyResult found = greedy_search(runner_, kl(), start, edges, 0.05 * whole(), 10);
  EXPECT_EQ(found.circuit.edges(), planted::kCircuit);
  ASSERT_EQ(found.steps.size(), 1u);
  EXPECT_EQ(found.steps[0].candidate,
            ResidualGraph(4).index({planted::kLayer2, planted::kUnembed}));
}

TEST_F(Search, TheFewestEdgesByScoreAreThePlantedOnes) {
  const AttributionTask task = {
      planted::sequences(1), planted::sequences(2), {{0, 1}, {2, 3}, {4, 5}}};
  std::vector<double> score = edge_attribution(model_, task, 10);
  for (double& s : score) s = std::abs(s);
  EXPECT_EQ(fewest_edges(runner_, kl(), score, 0.05 * whole()).edges(), planted::kCircuit);
}

TEST_F(Search, AWrongHypothesisIsFarOff) {
  Circuit right(4, false), wrong(4, false);
  for (const Edge edge : planted::kCircuit) right.set(edge, true);
  for (const Edge edge : {Edge{0, 1}, Edge{1, 3}, Edge{3, 5}, Edge{2, 5}}) wrong.set(edge, true);
  const std::vector<LastLogits> logits = runner_.run({right, wrong});
  EXPECT_LT(kl()(logits[0]), 0.01 * whole());
  EXPECT_GT(kl()(logits[1]), 0.5 * whole());
}

}  // namespace
}  // namespace elapse

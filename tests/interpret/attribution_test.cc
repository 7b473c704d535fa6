// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/attribution.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/interpret/planted.h"

namespace elapse {
namespace {

const std::vector<Answer> kAnswers = {{0, 1}, {2, 3}, {4, 5}};

AttributionTask task() { return {planted::sequences(1), planted::sequences(2), kAnswers}; }

double difference(const LanguageModel& model, const TokenLists& sequences) {
  return mean(logit_differences(last_logits(model, pack(model, sequences)), kAnswers));
}

TEST(EdgeAttribution, IsLargestOnThePlantedCircuit) {
  Device device("ref");
  const LanguageModel model = planted::model(device);
  const ResidualGraph graph(4);
  const std::vector<double> scores = edge_attribution(model, task(), 20);
  double of_circuit = INFINITY, of_others = 0;
  for (int64_t i = 0; i < graph.edges(); ++i) {
    const bool planted_edge = std::find(planted::kCircuit.begin(), planted::kCircuit.end(),
                                        graph.edge(i)) != planted::kCircuit.end();
    const double size = std::abs(scores[static_cast<size_t>(i)]);
    if (planted_edge) of_circuit = std::min(of_circuit, size);
    else of_others = std::max(of_others, size);
  }
  EXPECT_GT(of_circuit, 10 * of_others);
}

// What all edges out of the embedding carry is the difference of the whole runs.
TEST(EdgeAttribution, OfTheInputsWithManyStepsIsComplete) {
  Device device("ref");
  const LanguageModel model = planted::model(device);
  const double expected = difference(model, task().others) - difference(model, task().sequences);
  double error = INFINITY;
  for (const int64_t steps : {10, 40, 160}) {
    const std::vector<double> scores = edge_attribution(model, task(), steps);
    double sum = 0;
    for (int64_t to = 1; to < 6; ++to) {
      sum += scores[static_cast<size_t>(ResidualGraph(4).index({0, to}))];
    }
    EXPECT_LT(std::abs(sum - expected), error / 2) << steps << " steps";
    error = std::abs(sum - expected);
  }
  EXPECT_LT(error, 0.05 * std::abs(expected));
}

TEST(EdgeAttribution, CpuAgreesWithRef) {
  Device ref("ref"), cpu("cpu", 2);
  ModelConfig config = ModelConfig::mamba(20, 3, 8);
  config.d_state = 4;
  const LanguageModel expected(ref, config, DType::f64, 5), found(cpu, config, DType::f32, 5);
  const std::vector<double> a = edge_attribution(expected, task()),
                            b = edge_attribution(found, task());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6);
}

// To first order: halving the change quarters the error, for every kind of point.
TEST(PointAttribution, IsTheFirstOrderOfPatching) {
  Device device("ref");
  ModelConfig config = ModelConfig::mamba(20, 2, 8);
  config.d_state = 4;
  const LanguageModel model(device, config, DType::f64, 5);
  const AttributionTask t = task();
  const double base = difference(model, t.sequences);
  for (const char* point : {"layers.1.resid_pre", "layers.0.mixer.out", "layers.1.mixer.dt",
                            "layers.0.mixer.h", "layers.1.mixer.write", "layers.0.mixer.x"}) {
    SCOPED_TRACE(point);
    const Selection where = {.sequences = {1}, .positions = {2, 3}};
    const std::vector<double> rows = point_attribution(model, t, point, where);
    EXPECT_EQ(rows.size(), 2u);
    const double expected = std::accumulate(rows.begin(), rows.end(), 0.0);
    Points own, other;
    own.watch(point, where);
    other.watch(point, where);
    Tape tape(device, false);
    model.forward(tape, pack(model, t.sequences), nullptr, &own);
    model.forward(tape, pack(model, t.others), nullptr, &other);
    const std::vector<double> a = host_values(device, own.value(point)),
                              b = host_values(device, other.value(point));
    const auto error = [&](double share) {
      std::vector<double> added(a.size());
      for (size_t i = 0; i < a.size(); ++i) added[i] = share * (b[i] - a[i]);
      Points patch;
      patch.edit({point, EditOp::add, device.upload(added, own.value(point).shape()), where});
      Tape plain(device, false);
      const LastLogits logits = last_logits(
          model, model.forward(plain, pack(model, t.sequences), nullptr, &patch).value());
      return std::abs(mean(logit_differences(logits, kAnswers)) - base - share * expected);
    };
    const double coarse = error(1e-2), fine = error(1e-3);
    EXPECT_GT(coarse, 0);
    EXPECT_LT(fine, coarse / 30);
  }
}

TEST(Attribution, RefusesWhatDoesNotFit) {
  Device device("ref");
  const LanguageModel model = planted::model(device);
  AttributionTask t = task();
  t.answers.pop_back();
  EXPECT_THROW(edge_attribution(model, t), Error);
  t = task();
  t.answers[0].wrong = planted::kClasses;
  EXPECT_THROW(edge_attribution(model, t), Error);
  EXPECT_THROW(edge_attribution(model, task(), 0), Error);
  EXPECT_THROW(point_attribution(model, task(), "layers.9.mixer.dt"), Error);
}

}  // namespace
}  // namespace elapse

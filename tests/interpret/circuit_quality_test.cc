// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/circuit_quality.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/interpret/metrics.h"
#include "tests/interpret/planted.h"

namespace elapse {
namespace {

class Quality : public testing::Test {
 protected:
  Quality()
      : device_("ref"),
        model_(planted::model(device_)),
        runner_(model_, planted::sequences(1), planted::sequences(2)) {}

  // How far the runs' first logits are from those of the other run: 0 of the empty circuit.
  Score score() const {
    return [this](const LastLogits& logits) {
      double sum = 0;
      for (size_t i = 0; i < logits.values.size(); ++i) {
        sum += std::abs(logits.values[i] - runner_.other().values[i]);
      }
      return sum;
    };
  }

  Device device_;
  LanguageModel model_;
  CircuitRunner runner_;
};

const NodeSet kRight = {planted::kLayer1, planted::kLayer2};

TEST_F(Quality, ThePlantedCircuitIsCompleteAndMinimal) {
  const double whole = score()(runner_.plain());
  EXPECT_GT(whole, 1);
  EXPECT_LT(completeness(runner_, score(), kRight, 8, 1).gap(), 0.02 * whole);
  const std::vector<Minimality> found = minimality(runner_, score(), kRight, 8, 1);
  ASSERT_EQ(found.size(), 2u);
  for (const Minimality& m : found) EXPECT_GT(m.change, 0.3 * whole) << "node " << m.node;
}

TEST_F(Quality, ACircuitThatLacksALayerIsNotComplete) {
  const double whole = score()(runner_.plain());
  const Completeness found = completeness(runner_, score(), {planted::kLayer2}, 8, 1);
  EXPECT_GT(found.gap(), 0.3 * whole);
}

TEST_F(Quality, ALayerThatDoesNothingIsNotMinimal) {
  const double whole = score()(runner_.plain());
  const NodeSet larger = {1, planted::kLayer1, planted::kLayer2, 4};
  EXPECT_LT(completeness(runner_, score(), larger, 8, 1).gap(), 0.02 * whole);
  for (const Minimality& m : minimality(runner_, score(), larger, 8, 1)) {
    const bool idle = m.node == 1 || m.node == 4;
    EXPECT_EQ(m.change < 0.02 * whole, idle) << "node " << m.node;
  }
}

TEST_F(Quality, AllLayersAreTheModel) {
  EXPECT_EQ(runner_.run({circuit_of(4, {1, 2, 3, 4})}).front().values, runner_.plain().values);
  EXPECT_EQ(completeness(runner_, score(), {1, 2, 3, 4}, 4, 1).gap(), 0);
  EXPECT_THROW(circuit_of(4, {5}), Error);
}

}  // namespace
}  // namespace elapse

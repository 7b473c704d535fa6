// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction_circuit.h"

#include <gtest/gtest.h>

#include "elapse/experiments/induction.h"
#include "elapse/io/json.h"
#include "elapse/model/checkpoint.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

TEST(InductionCircuit, IsNotClaimedInAModelThatDoesNotDoTheTask) {
  Device device("cpu", 1);
  const LanguageModel model(device, InductionSettings::model_of(MixerKind::mamba), DType::f32, 1);
  const InductionCircuitSettings settings;
  const InductionCircuit found =
      run_induction_circuit(model, settings, [](const ExperimentProgress&) {});
  EXPECT_LT(found.accuracy, 0.5);
  EXPECT_TRUE(found.swaps.empty());
  EXPECT_TRUE(induction_circuit_tables(found).empty());
  EXPECT_NE(induction_circuit_report(settings, found).html().find("too little"), std::string::npos);
  EXPECT_NO_THROW(Json::parse(induction_circuit_json(found), "result"));
}

TEST(InductionCircuit, RefusesModelsOfOtherTasks) {
  Device device("cpu", 1);
  const LanguageModel model(device, ModelConfig::mamba(16, 1, 17), DType::f32, 1);
  EXPECT_THROW(run_induction_circuit(model, {}, [](const ExperimentProgress&) {}), Error);
}

// A model taught on short sequences keeps the answer in a state that can be swapped.
TEST(InductionCircuit, IsFoundInAModelThatDoes) {
  Device device("cpu", 1);
  InductionSettings training = InductionSettings::quick();
  training.models.front().d_state = 8;
  training.train.curriculum = {};
  training.train.length = 10;
  training.train.steps = 300;
  training.train.batch_tokens = 960;
  training.train.schedule = {.peak_lr = 4e-3, .warmup_steps = 30};
  training.tests = {{10, 8}};
  const auto quiet = [](const ExperimentProgress&) {};
  const TemporaryFolder folder;
  run_induction(device, training, folder.path(), quiet);
  const auto model =
      load_model(device, induction_model_folder(training, folder.path()), DType::f32);
  InductionCircuitSettings settings;
  settings.length = 10;
  settings.sequences = 64;
  settings.rounds = 3;
  const InductionCircuit found = run_induction_circuit(*model, settings, quiet);
  ASSERT_GE(found.accuracy, 0.95);
  EXPECT_EQ(found.swaps.size(), 12u);
  double most = 0;
  for (const InductionCircuit::Swap& s : found.swaps) {
    EXPECT_LE(s.swapped + s.kept, 1.0001);
    most = std::max(most, s.swapped);
  }
  EXPECT_GT(most, 0.3);  // of 14 answers
  for (const InductionCircuit::Attention& a : found.attention) {
    double sum = a.elsewhere;
    for (const double share : a.at_offset) sum += share;
    EXPECT_NEAR(sum, 1, 1e-9);
  }
  ASSERT_EQ(found.hypotheses.size(), 4u);
  EXPECT_NEAR(found.hypotheses.front().result.recovered, 0, 0.3);
  EXPECT_GT(found.hypotheses.back().result.recovered, found.hypotheses[1].result.recovered - 0.05);
  EXPECT_NE(induction_circuit_report(settings, found).html().find("scrubbed"), std::string::npos);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/superposition.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/io/json.h"

namespace elapse {
namespace {

SuperpositionSettings small_settings() {
  SuperpositionSettings s = SuperpositionSettings::quick();
  s.plane.probabilities = {1, 0.1};
  s.sweep.features = 8;
  s.sweep.hidden = 3;
  s.sweep.probabilities = {1, 0.2};
  s.absolute.features = 6;
  s.absolute.hidden = 4;
  s.absolute.probabilities = {1, 0.2};
  for (auto* part : {&s.plane, &s.sweep, &s.absolute}) {
    part->training.steps = 40;
    part->training.batch = 64;
    part->training.schedule.warmup_steps = 2;
  }
  s.held_out = 2000;
  s.seeds = 2;
  return s;
}

SuperpositionResult run(const SuperpositionSettings& settings, int threads) {
  const Device device("cpu", threads);
  return run_superposition(device, settings,
                           [](const ExperimentProgress& now) { EXPECT_LE(now.done, now.total); });
}

// All that was found, without how long it took.
std::string found(const SuperpositionSettings& settings, SuperpositionResult result) {
  result.seconds = 0;
  result.device.clear();
  return superposition_json(settings, result);
}

TEST(Superposition, IsTheSameToTheBitOnAnyNumberOfThreads) {
  const SuperpositionSettings settings = small_settings();
  const std::string one = found(settings, run(settings, 1));
  EXPECT_EQ(one, found(settings, run(settings, 2)));
  EXPECT_EQ(one, found(settings, run(settings, 5)));
  SuperpositionSettings other = settings;
  other.seed = 9;
  EXPECT_NE(one, found(settings, run(other, 1)));
}

TEST(Superposition, ASeedGivesTheSameModelsAlone) {
  SuperpositionSettings settings = small_settings();
  const SuperpositionResult both = run(settings, 1);
  settings.seed += 1;
  settings.seeds = 1;
  const SuperpositionResult second = run(settings, 1);
  EXPECT_EQ(both.sweep[1].runs[1].W, second.sweep[1].runs[0].W);
  EXPECT_EQ(both.absolute[0].runs[1].error, second.absolute[0].runs[0].error);
}

TEST(Superposition, TellsWhatItFound) {
  const SuperpositionSettings settings = small_settings();
  const SuperpositionResult r = run(settings, 1);
  EXPECT_EQ(superposition_tables(settings, r).size(), 5u);
  const Json json = Json::parse(superposition_json(settings, r), "result");
  EXPECT_EQ(json.text("experiment"), "superposition");
  const std::string html = superposition_report(settings, r).html();
  EXPECT_NE(html.find("Five features in a plane"), std::string::npos);
  EXPECT_EQ(html.find("nan"), std::string::npos);
  for (const auto& instance : r.absolute) {
    for (const auto& one : instance.runs) {
      for (size_t i = 0; i < one.right.size(); ++i) {
        EXPECT_GE(one.right[i], 0);
        EXPECT_LE(one.right[i], 1 + 1e-9);
        EXPECT_LE(one.right_on[i], 1 + 1e-9);
      }
    }
  }
}

TEST(Superposition, StopsWhereItsListenerThrows) {
  const Device device("cpu", 1);
  EXPECT_THROW(run_superposition(device, small_settings(),
                                 [](const ExperimentProgress&) { fail("enough"); }),
               Error);
}

TEST(Superposition, NeedsEveryFeatureOnceAmongHeldOutExamples) {
  SuperpositionSettings s = small_settings();
  s.held_out = 1;
  EXPECT_THROW(run(s, 1), Error);
}

TEST(Superposition, TheLossOfFeaturesKeptApartIsTheVarianceOfTheRest) {
  ToyTask task = {ToyTask::Kind::reconstruct, 2, falling_importance(5, 0.9), 1};
  EXPECT_NEAR(loss_without_superposition(task), (0.81 + 0.729 + 0.6561) / 12, 1e-12);
  task.probability = 0.1;  // E x^2 - (E x)^2 = 0.1 / 3 - 0.05^2
  EXPECT_NEAR(loss_without_superposition(task), (0.81 + 0.729 + 0.6561) * (0.1 / 3 - 0.0025),
              1e-12);
  task = {ToyTask::Kind::absolute_value, 4, falling_importance(3, 0.5), 1};
  EXPECT_NEAR(loss_without_superposition(task), 0.25 / 12, 1e-12);
}

TEST(Superposition, CountsFeaturesByEitherReadOut) {
  const SuperpositionResult::Computation one = {
      .error = {0.01, 0.1, 0.11, 0.5}, .right_on = {0.99, 0.89, 0.9, 0}, .right = {}};
  EXPECT_EQ(computed_by_error(one), 2);
  EXPECT_EQ(computed_by_accuracy(one), 2);
}

TEST(Superposition, RefusesNonsense) {
  const auto refused = [](auto&& change) {
    SuperpositionSettings s = small_settings();
    change(s);
    EXPECT_THROW(s.check(), Error);
    EXPECT_THROW(run(s, 1), Error);
  };
  EXPECT_NO_THROW(small_settings().check());
  EXPECT_NO_THROW(SuperpositionSettings::quick().check());
  refused([](auto& s) { s.seeds = 0; });
  refused([](auto& s) { s.held_out = 0; });
  refused([](auto& s) { s.epsilon = 0; });
  refused([](auto& s) { s.epsilon = NAN; });
  refused([](auto& s) { s.plane.hidden = 3; });
  refused([](auto& s) { s.sweep.features = 0; });
  refused([](auto& s) { s.sweep.features = -1; });
  refused([](auto& s) { s.absolute.hidden = 0; });
  refused([](auto& s) { s.absolute.probabilities = {}; });
  refused([](auto& s) { s.absolute.probabilities = {0.5, 0}; });
  refused([](auto& s) { s.sweep.training.steps = 0; });
  refused([](auto& s) { s.sweep.training.schedule.peak_lr = -1; });
}

}  // namespace
}  // namespace elapse

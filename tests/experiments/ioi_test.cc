// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ioi.h"

#include <gtest/gtest.h>

#include "elapse/io/json.h"

namespace elapse {
namespace {

IoiSettings small_settings(int64_t steps) {
  IoiLists lists = IoiLists::own();
  lists.templates = {"[B] and [A] met . [B] told"};
  lists.names.resize(8);
  lists.places.resize(1);
  lists.objects.resize(1);
  IoiSettings s = IoiSettings::quick(lists);
  const IoiTask task(s.seed, s.lists);
  s.model = ModelConfig::mamba(32, 2, task.vocab_size());
  s.model.d_state = 8;
  s.train.length = task.length();
  s.train.batch_tokens = 32 * task.length();
  s.train.steps = steps;
  s.train.schedule = {.peak_lr = 5e-3};
  s.prompts = 16;
  s.counterfactuals = 3;
  return s;
}

TEST(Ioi, AModelThatDoesTheTaskIsLookedInto) {
  Device device("cpu", 1);
  const IoiSettings settings = small_settings(400);
  int64_t calls = 0;
  const IoiRun run = run_ioi(device, settings, [&](const ExperimentProgress& now) {
    EXPECT_LE(now.done, now.total);
    ++calls;
  });
  const IoiResult& r = run.result;
  ASSERT_GE(r.whole.accuracy, kIoiAccuracyNeeded);
  EXPECT_GT(calls, 400);
  ASSERT_EQ(r.knockouts.size(), 2u);
  for (const IoiResult::Knockout& k : r.knockouts) {
    EXPECT_FALSE(k.layers.empty());
    EXPECT_EQ(k.minimality.size(), k.layers.size());
    EXPECT_LE(k.faithfulness.kl, 0.1 * k.empty_kl + 1e-6);
    EXPECT_LE(k.faithfulness.gap_of_means, k.faithfulness.mean_gap + 1e-9);
  }
  EXPECT_FALSE(r.edges.empty());
  ASSERT_EQ(r.adversarial.size(), 4u);
  for (int i = 0; i < 3; ++i) {  // a search ends below where it starts, and can take either name
    EXPECT_LE(r.adversarial[3].score.logit_difference,
              r.adversarial[size_t(i)].score.logit_difference);
  }
  EXPECT_EQ(r.worst.size(), 5u);
  EXPECT_EQ(ioi_tables(r).size(), 3u);
  const Json json = Json::parse(ioi_json(settings, r), "result");
  EXPECT_EQ(json.at("held_out").number("accuracy"), r.whole.accuracy);
  EXPECT_NE(ioi_report(settings, r).html().find("The circuit"), std::string::npos);
}

TEST(Ioi, NoCircuitIsClaimedInAModelThatDoesNot) {
  Device device("cpu", 1);
  const IoiSettings settings = small_settings(1);
  const IoiRun run = run_ioi(device, settings, [](const ExperimentProgress&) {});
  EXPECT_LT(run.result.whole.accuracy, kIoiAccuracyNeeded);
  EXPECT_TRUE(run.result.knockouts.empty());
  EXPECT_EQ(ioi_tables(run.result).size(), 1u);
  EXPECT_NE(ioi_report(settings, run.result).html().find("no circuit is looked for"),
            std::string::npos);
  EXPECT_NO_THROW(Json::parse(ioi_json(settings, run.result), "result"));
}

}  // namespace
}  // namespace elapse

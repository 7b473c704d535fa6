// SPDX-License-Identifier: Apache-2.0
// What comparisons say of runs made by hand: which learning rate is shown, and what was trained.
#include <gtest/gtest.h>

#include "elapse/experiments/comparison.h"
#include "elapse/experiments/mqar.h"
#include "elapse/experiments/selective_copying.h"
#include "elapse/io/json.h"

namespace elapse {
namespace {

ComparedRuns runs_of(const char* row, int64_t steps, const std::vector<RunResult>& runs) {
  ComparedRuns m;
  m.what.row = row;
  m.what.column = "task";
  m.what.train.steps = steps;
  m.what.train.batch_tokens = 64;
  m.what.train.length = 16;
  m.runs = runs;
  return m;
}

RunResult run_on(const char* device, double shown, double to_choose_by) {
  RunResult run;
  run.tests = {{.accuracy = shown, .targets = 1, .length = 16},
               {.accuracy = to_choose_by, .targets = 1, .length = 16}};
  run.device = device;
  return run;
}

TEST(ComparisonReport, LearningRatesAreNotChosenByWhatIsShown) {
  const ComparedRuns looks_best = runs_of("GRU", 4, {run_on("cpu", 0.9, 0.2)});
  const ComparedRuns is_best = runs_of("GRU", 4, {run_on("cpu", 0.5, 0.6)});
  for (const auto& models : {std::vector{looks_best, is_best}, std::vector{is_best, looks_best}}) {
    const Comparison best = best_learning_rates({.seeds = {1, 1}, .models = models});
    ASSERT_EQ(best.models.size(), 1U);
    EXPECT_EQ(accuracy_percent(best.models.front().runs.front()), 50);
  }
}

TEST(ComparisonReport, WhatDiffersAmongRunsIsListed) {
  ComparedRuns longer = runs_of("LSTM", 26, {run_on("ref", 1, 1)});
  longer.what.train.curriculum = {{4, 10}, {8, 6}};
  longer.what.train.batch_tokens = 128;
  longer.what.train.adamw.weight_decay = 0;
  const Comparison all = {.seeds = {1, 1},
                          .models = {runs_of("GRU", 21, {run_on("cpu", 1, 1)}), longer}};
  const Json json = Json::parse(comparison_json(all, "name", ""), "json");
  const Json settings = json.at("settings");
  EXPECT_EQ(settings.text("Steps"), "21, 26");
  EXPECT_EQ(settings.text("Tokens a step"), "64, 128");
  EXPECT_EQ(settings.text("Lengths of sequences"), "16, 4 8 16");
  EXPECT_EQ(settings.text("Device"), "cpu; ref");
  EXPECT_NE(settings.text("Optimiser").find("weight decay 0,"), std::string::npos);
  EXPECT_NE(settings.text("Optimiser").find("weight decay 0.1,"), std::string::npos);
  EXPECT_EQ(json.at("rows").items()[1].integer("steps"), 26);
  EXPECT_EQ(json.at("rows").items()[1].text("device"), "ref");
  const std::string table = runs_table(all).text();
  for (const char* part : {"21 of 16", "10 of 4, 6 of 8, 10 of 16", "cpu", "ref"}) {
    EXPECT_NE(table.find(part), std::string::npos) << part << "\n" << table;
  }
}

TEST(ComparisonReport, SelectiveCopyingOfOtherSettingsIsNotThePublishedRun) {
  const auto expect = [](const SelectiveCopyingSettings& s, const std::string& difference) {
    EXPECT_NE(s.unlike_published().find(difference), std::string::npos) << s.unlike_published();
  };
  SelectiveCopyingSettings s = SelectiveCopyingSettings::full();
  EXPECT_EQ(s.unlike_published(), "");
  s.d_model = 8;
  s.n_layers = 1;
  s.data_tokens = 2;
  s.peak_lrs = {1e-2};
  for (const char* part : {"d_model 8 instead of 64", "layers 1 instead of 2", "2 data tokens",
                           "lr 0.01 instead of 0.0001"}) {
    expect(s, part);
  }
  expect(SelectiveCopyingSettings::quick(),
         "lr 0.001, 0.005 falling to 0.1 of them instead of 0.0001");
}

TEST(ComparisonReport, MqarSaysHowItsTrainingIsNotThePublishedOne) {
  const std::string text = MqarSettings::full().unlike_published();
  for (const char* part : {"512 of them a step", "one head", "dropout of 0.1", "rotary"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
}

}  // namespace
}  // namespace elapse

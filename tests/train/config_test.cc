// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/config.h"

#include <gtest/gtest.h>

#include "tests/io/expect_error.h"
#include "tests/train/tiny_run.h"

namespace elapse {
namespace {

TEST(TrainConfig, the_curriculum_comes_first) {
  TrainConfig config = tiny_training(10);
  config.curriculum = {{2, 3}, {4, 1}};
  const std::vector<int64_t> expected = {2, 2, 2, 4, 8, 8};
  for (size_t step = 0; step < expected.size(); ++step) {
    EXPECT_EQ(config.length_at(static_cast<int64_t>(step)), expected[step]) << step;
  }
  EXPECT_EQ(config.lengths(), (std::vector<int64_t>{2, 4, 8}));
}

TEST(TrainConfig, the_length_after_a_curriculum_that_takes_all_steps_is_no_matter) {
  TrainConfig config = tiny_training(4);
  config.curriculum = {{2, 3}, {4, 1}};
  config.length = 999;
  config.check();
  EXPECT_EQ(config.lengths(), (std::vector<int64_t>{2, 4}));
}

TEST(TrainConfig, a_sequence_longer_than_the_batch_makes_a_step) {
  TrainConfig config = tiny_training(4);
  config.length = 100;
  config.check();
  EXPECT_EQ(config.sequences(100), 1);
  EXPECT_EQ(config.sequences(48), 1);
  EXPECT_EQ(config.sequences(8), 6);
}

TEST(TrainConfig, names_the_field_that_makes_no_run) {
  const auto broken = [](auto change) {
    return [change] {
      TrainConfig config = tiny_training(10);
      change(config);
      config.check();
    };
  };
  broken([](TrainConfig&) {})();
  expect_error(broken([](auto& c) { c.steps = 0; }), "steps: expected 1 to");
  expect_error(broken([](auto& c) { c.accumulate = 0; }), "accumulate");
  expect_error(broken([](auto& c) { c.truncate = -1; }), "truncate");
  expect_error(broken([](auto& c) { c.accumulate = 7; }), "expected 7 to");
  expect_error(broken([](auto& c) { c.length = 0; }), "multiple of the length 0");
  expect_error(broken([](auto& c) { c.length = 9; }), "multiple of the length 9, found 48");
  expect_error(broken([](auto& c) { c.length = 96, c.accumulate = 2; }), "expected 2 to");
  expect_error(broken([](auto& c) { c.batch_tokens = -48; }), "found -48");
  expect_error(broken([](auto& c) { c.batch_tokens = int64_t{1} << 62; }), "sequences of 8 tokens");
  expect_error(broken([](auto& c) { c.curriculum = {{5, 2}}; }), "multiple of the length 5");
  expect_error(broken([](auto& c) { c.curriculum = {{4, 8}, {8, 3}}; }), "found \"4:8,8:3\"");
  expect_error(broken([](auto& c) { c.curriculum = {{4, 0}}; }), "found \"4:0\"");
  expect_error(broken([](auto& c) { c.schedule.peak_lr = -1; }), "peak_lr: ");
  expect_error(broken([](auto& c) { c.adamw.beta1 = 2; }), "beta1");
}

TEST(Settings, tell_apart_runs_with_other_numbers) {
  const TrainConfig config = tiny_training(10);
  const auto base = settings(config, TinyRun::shape(), "data");
  const auto changed = [&](auto change) {
    TrainConfig other = config;
    change(other);
    return settings(other, TinyRun::shape(), "data") != base;
  };
  EXPECT_TRUE(changed([](auto& c) { c.steps = 11; }));
  EXPECT_TRUE(changed([](auto& c) { c.batch_tokens = 96; }));
  EXPECT_TRUE(changed([](auto& c) { c.accumulate = 2; }));
  EXPECT_TRUE(changed([](auto& c) { c.truncate = 2; }));
  EXPECT_TRUE(changed([](auto& c) { c.curriculum = {{4, 1}}; }));
  EXPECT_TRUE(changed([](auto& c) { c.length = 4; }));
  EXPECT_TRUE(changed([](auto& c) { c.schedule.peak_lr = 0.0100000000000001; }));
  EXPECT_TRUE(changed([](auto& c) { c.schedule.min_lr = 1e-9; }));
  EXPECT_TRUE(changed([](auto& c) { c.schedule.kind = Schedule::Kind::constant; }));
  EXPECT_TRUE(changed([](auto& c) { c.adamw.weight_decay = 0; }));
  EXPECT_TRUE(changed([](auto& c) { c.adamw.max_norm = 2; }));
  EXPECT_TRUE(changed([](auto& c) { c.start = "other weights"; }));
  EXPECT_NE(settings(config, TinyRun::shape(), "other"), base);
  ModelConfig wider = TinyRun::shape();
  wider.d_state = 4;
  EXPECT_NE(settings(config, wider, "data"), base);
}

TEST(Settings, a_run_with_a_constant_learning_rate_may_be_continued_further) {
  TrainConfig config = tiny_training(10);
  config.schedule.kind = Schedule::Kind::constant;
  const auto base = settings(config, TinyRun::shape(), "data");
  config.steps = 20;
  EXPECT_EQ(settings(config, TinyRun::shape(), "data"), base);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

using Kind = Schedule::Kind;

Schedule schedule(Kind kind) {
  Schedule s;
  s.kind = kind;
  s.peak_lr = 1.0;
  s.min_lr = 0.1;
  s.warmup_steps = 4;
  s.decay_steps = 5;
  return s;
}

TEST(Schedule, rises_linearly_to_the_peak) {
  for (const Kind kind : {Kind::constant, Kind::cosine, Kind::warmup_stable_decay}) {
    const Schedule s = schedule(kind);
    EXPECT_DOUBLE_EQ(s.lr(0, 24), 0.25);
    EXPECT_DOUBLE_EQ(s.lr(1, 24), 0.5);
    EXPECT_DOUBLE_EQ(s.lr(3, 24), 1.0);
    EXPECT_DOUBLE_EQ(s.lr(4, 24), 1.0);
  }
}

TEST(Schedule, without_warm_up_begins_at_the_peak) {
  Schedule s = schedule(Kind::cosine);
  s.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(s.lr(0, 24), 1.0);
}

TEST(Schedule, constant_stays) {
  EXPECT_DOUBLE_EQ(schedule(Kind::constant).lr(1'000'000, 24), 1.0);
}

TEST(Schedule, cosine_falls_to_the_floor) {
  const Schedule s = schedule(Kind::cosine);
  EXPECT_NEAR(s.lr(14, 24), 0.55, 1e-12);                                      // half way
  EXPECT_NEAR(s.lr(9, 24), 0.1 + 0.45 * (1 + std::sqrt(0.5)), 1e-12);          // a quarter
  EXPECT_NEAR(s.lr(23, 24), 0.1 + 0.45 * (1 + std::cos(M_PI * 0.95)), 1e-12);  // the last step
  EXPECT_DOUBLE_EQ(s.lr(24, 24), 0.1);
  EXPECT_DOUBLE_EQ(s.lr(1000, 24), 0.1);
}

TEST(Schedule, warm_up_stable_decay_falls_at_the_end_alone) {
  const Schedule s = schedule(Kind::warmup_stable_decay);
  EXPECT_DOUBLE_EQ(s.lr(19, 24), 1.0);
  EXPECT_DOUBLE_EQ(s.lr(20, 24), 0.82);
  EXPECT_DOUBLE_EQ(s.lr(23, 24), 0.28);
  EXPECT_DOUBLE_EQ(s.lr(24, 24), 0.1);
}

TEST(Schedule, a_step_before_the_decay_without_decay_steps_stays) {
  Schedule s = schedule(Kind::warmup_stable_decay);
  s.decay_steps = 0;
  EXPECT_DOUBLE_EQ(s.lr(23, 24), 1.0);
}

TEST(Schedule, names_the_field_that_makes_none) {
  const auto broken = [](auto change) {
    return [change] {
      Schedule s = schedule(Kind::warmup_stable_decay);
      change(s);
      s.check(24);
    };
  };
  broken([](Schedule&) {})();
  expect_error(broken([](Schedule& s) { s.peak_lr = 0; }), "peak_lr: expected a positive");
  expect_error(broken([](Schedule& s) { s.peak_lr = NAN; }), "peak_lr");
  expect_error(broken([](Schedule& s) { s.min_lr = 2; }), "min_lr: expected 0 to");
  expect_error(broken([](Schedule& s) { s.min_lr = NAN; }), "min_lr");
  expect_error(broken([](Schedule& s) { s.warmup_steps = -1; }), "warmup_steps: expected 0");
  expect_error(broken([](Schedule& s) { s.decay_steps = -1; }), "decay_steps: expected 0");
  expect_error(broken([](Schedule& s) { s.decay_steps = 21; }),
               "decay_steps: expected at most the 20 steps after the warm-up, found 21");
  expect_error(broken([](Schedule& s) { s.warmup_steps = 25; }),
               "warmup_steps: expected at most the 24 steps there are, found 25");
}

}  // namespace
}  // namespace elapse

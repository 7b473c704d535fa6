// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/stretches.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "elapse/train/predict.h"
#include "tests/train/tiny_run.h"

namespace elapse {
namespace {

using Numbers = std::vector<int64_t>;

TEST(Stretches, cut_every_sequence_at_the_same_places) {
  const TokenBatch batch = {.tokens = {1, 2, 3, 4, 5, 6, 7, 8},
                            .lengths = {5, 1, 2},
                            .logit_rows = {},
                            .targets = {2, 3, 4, 5, kMaskedTarget, kMaskedTarget, 8, 9}};
  const std::vector<Stretch> stretches = stretches_of(batch, 2);
  ASSERT_EQ(stretches.size(), 3u);
  EXPECT_EQ(stretches[0].batch.tokens, (Numbers{1, 2, 6, 7, 8}));
  EXPECT_EQ(stretches[0].batch.lengths, (Numbers{2, 1, 2}));
  EXPECT_EQ(stretches[0].sequences, (Numbers{0, 1, 2}));
  EXPECT_EQ(stretches[0].batch.logit_rows, (Numbers{0, 1, 3, 4}));
  EXPECT_EQ(stretches[0].batch.targets, (Numbers{2, 3, 8, 9}));
  EXPECT_EQ(stretches[1].batch.tokens, (Numbers{3, 4}));
  EXPECT_EQ(stretches[1].sequences, (Numbers{0}));
  EXPECT_EQ(stretches[2].batch.tokens, (Numbers{5}));
  EXPECT_EQ(stretches[2].batch.counted_targets(), 0);
  EXPECT_EQ(stretches[2].batch.logit_rows, (Numbers{0}));
}

TEST(Stretches, rows_asked_for_stay_with_their_tokens) {
  const TokenBatch batch = {
      .tokens = {1, 2, 3, 4, 5, 6}, .lengths = {3, 3}, .logit_rows = {2, 5}, .targets = {7, 8}};
  const std::vector<Stretch> stretches = stretches_of(batch, 2);
  ASSERT_EQ(stretches.size(), 2u);
  EXPECT_EQ(stretches[0].batch.counted_targets(), 0);
  EXPECT_EQ(stretches[1].batch.tokens, (Numbers{3, 6}));
  EXPECT_EQ(stretches[1].batch.logit_rows, (Numbers{0, 1}));
  EXPECT_EQ(stretches[1].batch.targets, (Numbers{7, 8}));
}

double length_of(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

// The last stretch's gradients alone, from the state that the tokens before leave.
double gradient_norm_of_last_stretch(TinyRun& run, int64_t tokens) {
  const TokenBatch batch = run.task().training_batch(0, 0, 6, 8);
  const LanguageModel& model = run.model();
  State state = model.make_state(6);
  model.parameters().zero_grad(run.device());
  for (const Stretch& stretch : stretches_of(batch, tokens)) {
    const bool last = stretch.batch.counted_targets() > 0;
    Tape tape(run.device(), last);
    const Var loss = predict_loss(tape, model, stretch, state);
    if (last) tape.backward(loss);
  }
  std::vector<double> all;
  for (const Parameter& p : model.parameters().all()) {
    const Tensor& grad = p.var.grad();
    all.insert(all.end(), grad.data<double>(), grad.data<double>() + grad.numel());
  }
  return length_of(all);
}

// The task asks for the last token alone: no other stretch has gradients.
TEST(Stretches, the_trainer_carries_the_state_and_ends_gradients_where_a_stretch_begins) {
  const auto first_step = [](int64_t truncate) {
    TrainConfig config = tiny_training(3);
    config.truncate = truncate;
    TinyRun run(config, DType::f64);
    const double expected = truncate > 0 && truncate < 8
                                ? gradient_norm_of_last_stretch(run, truncate)
                                : std::numeric_limits<double>::quiet_NaN();
    return std::pair(run.trainer().step(), expected);
  };
  const StepReport whole = first_step(0).first;
  for (const int64_t tokens : {1, 2, 3, 7}) {
    const auto [report, expected] = first_step(tokens);
    EXPECT_NEAR(report.loss, whole.loss, 1e-12);
    EXPECT_NEAR(report.gradient_norm, expected, 1e-12);
    EXPECT_GT(std::abs(report.gradient_norm - whole.gradient_norm), 1e-6);
  }
  EXPECT_EQ(first_step(8).first.gradient_norm, whole.gradient_norm);
}

}  // namespace
}  // namespace elapse

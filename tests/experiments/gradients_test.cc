// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/gradients.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/data/induction.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

// One layer that remembers alone: the adjoint of h is (dh_t / dh_(t-1)) times the next one's, which
// for a recurrence that only keeps (weights of the input 0) is W^T diag(1 - h^2).
TEST(Gradients, of_an_rnn_that_keeps_half_vanish_by_half_a_token) {
  Device device("ref");
  ModelConfig config = ModelConfig::of(MixerKind::rnn, 8, 1, InductionTask::kVocabSize);
  const LanguageModel model(device, config, DType::f64, 1);
  for (const Parameter& p : model.parameters().all()) {
    const bool recurrent = p.name.ends_with("weight_hh_l0");
    if (!recurrent && p.name.find("bias") == std::string::npos &&
        !p.name.ends_with("weight_ih_l0")) {
      continue;
    }
    fill(device, {p.var.value(), 0});
    for (int64_t i = 0; recurrent && i < 8; ++i) p.var.value().data<double>()[9 * i] = 0.5;
  }
  const InductionTask task(1, InductionTask::Loss::last_token);
  const std::vector<double> norms = gradient_norms(model, task, 12, 5);
  ASSERT_EQ(norms.size(), 12u);
  for (size_t k = 1; k < norms.size(); ++k) EXPECT_NEAR(norms[k] / norms[k - 1], 0.5, 1e-12) << k;
}

GradientsSettings tiny() {
  GradientsSettings s;
  s.mixers = {MixerKind::lstm, MixerKind::mamba};
  s.d_model = 8;
  s.n_layers = 1;
  s.length = 16;
  s.sequences = 3;
  s.direct.steps = 4;
  s.direct.batch_tokens = 64;
  s.direct.length = 16;
  s.short_first = s.direct;
  s.short_first.curriculum = {{4, 2}};
  s.seeds = {1, 2};
  return s;
}

TEST(Gradients, are_measured_before_and_after_both_trainings) {
  const TemporaryFolder folder;
  Device device("cpu");
  const GradientsSettings settings = tiny();
  const GradientsResult result = run_gradients(device, settings, folder.path(), [](const auto&) {});
  ASSERT_EQ(result.models.size(), 2u * 2u * 3u);
  for (const GradientReach& m : result.models) {
    EXPECT_EQ(std::isnan(m.accuracy), m.stage == Stage::untrained);
    EXPECT_EQ(m.share(0), 1);
    EXPECT_EQ(m.reach(0), settings.length);
    EXPECT_EQ(m.reach(INFINITY), 0);
    for (const double norm : m.norms) EXPECT_GT(norm, 0);
  }
  const std::string again =
      gradients_json(settings, run_gradients(device, settings, folder.path(), [](const auto&) {}));
  EXPECT_EQ(again, gradients_json(settings, result));
  EXPECT_NE(gradients_table(settings, result).text().find("short sequences first"),
            std::string::npos);
}

}  // namespace
}  // namespace elapse

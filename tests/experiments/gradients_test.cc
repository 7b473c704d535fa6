// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/gradients.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/data/induction.h"
#include "elapse/experiments/task_model.h"
#include "tests/io/expect_error.h"
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

// Of a sequence's last `k` tokens in one pass from the state before them.
double norm_from_a_start(const LanguageModel& model, const std::vector<int64_t>& tokens,
                         int64_t target, int64_t k) {
  Device& device = model.device();
  State state = model.make_state(1, true);
  const auto batch = [&](int64_t begin, int64_t end) {
    const std::vector<int64_t> part(tokens.begin() + begin, tokens.begin() + end);
    return Batch{device.upload(part, {end - begin}),
                 make_sequences(device, {end - begin}, {0}, {0}),
                 device.upload(std::vector<int64_t>{end - begin - 1}, {1})};
  };
  const int64_t length = std::ssize(tokens);
  Tape before(device, false), after(device);
  if (k < length) model.forward(before, batch(0, length - k), &state);
  const Var logits = model.forward(after, batch(length - k, length), &state);
  after.backward(cross_entropy(after, logits, device.upload(std::vector<int64_t>{target}, {1})));
  double square = 0;
  for (const LayerState& layer : state.layers()) {
    for (const StatePart& part : layer.parts) {
      const Tensor grad = after.accumulated_grad(part.pool);
      for (int64_t i = 0; i < grad.numel(); ++i) square += std::pow(grad.data<double>()[i], 2);
    }
  }
  return std::sqrt(square);
}

// In two layers, of every part of the state, what a layer hands on within a token counted once.
TEST(Gradients, are_those_of_the_state_that_the_last_tokens_start_from) {
  Device device("ref");
  constexpr int64_t kLength = 12;
  const InductionTask task(1, InductionTask::Loss::last_token);
  const TokenBatch batch = task.held_out_batch(0, kLength);
  const std::vector<int64_t> tokens(batch.tokens.begin(), batch.tokens.begin() + kLength);
  for (size_t kind = 0; kind < kMixerKinds; ++kind) {
    const auto mixer = static_cast<MixerKind>(kind);
    if (!has_state_gradients(mixer)) continue;
    const ModelConfig config = task_model(mixer, 16, 2, InductionTask::kVocabSize, kLength);
    const LanguageModel model(device, config, DType::f64, 1);
    const std::vector<double> norms = gradient_norms(model, task, kLength, 1);
    ASSERT_EQ(norms.size(), size_t{kLength});
    for (const int64_t k : {1, 2, 8, 12}) {
      const double expected = norm_from_a_start(model, tokens, batch.targets.front(), k);
      EXPECT_NEAR(norms[static_cast<size_t>(k - 1)] / expected, 1, 1e-9) << name_of(mixer) << k;
    }
  }
}

TEST(Gradients, of_mixers_whose_state_grows_are_refused_before_any_training) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  GradientsSettings settings = GradientsSettings::quick();
  settings.mixers = {MixerKind::lstm, MixerKind::attention};
  expect_error([&] { run_gradients(device, settings, folder.path(), [](const auto&) { FAIL(); }); },
               "expected mixers whose state has a constant size, found attention");
}

GradientsResult one_model(const std::vector<std::vector<double>>& norms) {
  GradientsResult result;
  for (size_t seed = 0; seed < norms.size(); ++seed) {
    result.models.push_back({MixerKind::s4d, Stage::untrained, seed + 1, NAN, norms[seed]});
  }
  return result;
}

TEST(Gradients, that_never_vanish_have_no_distance) {
  GradientsSettings settings;
  settings.mixers = {MixerKind::s4d};
  settings.length = 4;
  const auto summary_has = [&](const GradientsResult& result, const std::string& text) {
    EXPECT_NE(gradients_report(settings, result).html().find("before training: " + text),
              std::string::npos)
        << text;
  };
  summary_has(one_model({{2, 2, 1.9, 1.9}}), "S4D never.");
  summary_has(one_model({{2, 2, 1e-4, 1e-4}}), "S4D 3.");
  summary_has(one_model({{2, 2, 1e-4, 1e-4}, {2, 1, 1, 1}, {2, 1e-3, 1e-4, 1e-4}}),
              "S4D 3 [2, never].");
  EXPECT_NE(gradients_json(settings, one_model({{2, 2, 2, 2}})).find("\"reach\": null"),
            std::string::npos);
  // Gone and come back.
  EXPECT_EQ(one_model({{2, 1e-9, 1, 1e-9}}).models[0].reach(1e-3), 4);
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
    EXPECT_EQ(m.share(1), 1);
    EXPECT_EQ(m.reach(0), std::nullopt);
    EXPECT_EQ(m.reach(INFINITY), 1);
    EXPECT_EQ(std::ssize(m.norms), settings.length);
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

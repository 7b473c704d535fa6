// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/scaling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/experiments/power_law.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

TEST(Scaling, operations_of_a_token) {
  // Three times 2 a weight: 2 cells' matrices, the map out, and the head.
  const ModelConfig rnn = ModelConfig::of(MixerKind::rnn, 8, 1, 256);
  EXPECT_EQ(training_operations(rnn, 100), 3 * (2.0 * (3 * 64 + 256 * 8) + 6 * 8));
  // Those of attention grow with the length by 4 d_model a token it sees.
  const ModelConfig attention = ModelConfig::of(MixerKind::attention, 64, 2, 256);
  EXPECT_EQ(training_operations(attention, 300) - training_operations(attention, 100),
            3 * 2 * 4.0 * 64 * 100);
  // Hyena's with its logarithm; its maps are of 3 and of 1 d_model, its short filter has 3 taps.
  const ModelConfig hyena = ModelConfig::of(MixerKind::hyena, 8, 1, 256);
  EXPECT_EQ(training_operations(hyena, 128),
            3 * (2.0 * (4 * 64 + 3 * 24 + 256 * 8) + 2 * 5 * 8 * 8));
}

// A token costs the same after any number of others, but where all that came before is looked at
// (there twice the length adds twice as much) and by Fourier transforms (a constant).
TEST(Scaling, operations_grow_with_the_length_where_the_memory_does) {
  for (size_t kind = 0; kind < kMixerKinds; ++kind) {
    const auto mixer = static_cast<MixerKind>(kind);
    const ModelConfig model = ModelConfig::of(mixer, 64, 2, 256);
    const auto at = [&](int64_t length) { return training_operations(model, length); };
    const double first = at(2048) - at(1024), second = at(4096) - at(2048);
    const bool grows = model.state_bytes_per_token() > 0;
    EXPECT_EQ(first > 0, grows || mixer == MixerKind::hyena) << name_of(mixer);
    EXPECT_DOUBLE_EQ(second, grows ? 2 * first : first) << name_of(mixer);
  }
}

TEST(Scaling, families_have_as_many_parameters) {
  const auto parameters = [](const ModelConfig& c) {
    return static_cast<double>(c.parameter_count() - c.vocab() * c.d_model);
  };
  const ScalingSettings s = ScalingSettings::quick();
  for (const auto& size : s.sizes) {
    const double mamba =
        parameters(ModelConfig::of(MixerKind::mamba, size.d_model, size.n_layers, 256));
    for (const MixerKind mixer : s.mixers) {
      const ModelConfig other = scaled_model(mixer, size.d_model, static_cast<int64_t>(mamba));
      const double of_a_layer = parameters(other) / static_cast<double>(other.n_layers);
      EXPECT_NEAR(parameters(other), mamba, 0.5 * of_a_layer + 64) << name_of(mixer);
    }
  }
}

TEST(Scaling, a_power_law_is_found_again) {
  const PowerLaw law = {7, -0.3};
  std::vector<double> operations = {1e9, 3e9, 1e10, 1e12}, losses;
  for (const double c : operations) losses.push_back(law(c));
  EXPECT_NEAR(fitted(operations, losses).at_one, 7, 1e-9);
  EXPECT_NEAR(fitted(operations, losses).exponent, -0.3, 1e-12);
}

TEST(Scaling, trains_every_family_with_the_same_operations) {
  const TemporaryFolder folder;
  Device device("cpu");
  ScalingSettings s = ScalingSettings::quick();
  s.mixers = {MixerKind::mamba, MixerKind::lstm};
  s.sizes = {{8, 1}, {16, 1}};
  s.tokens_per_parameter = 0.2;
  s.train.batch_tokens = 32;
  s.train.length = 16;
  s.train.schedule.warmup_steps = 2;
  for (int i = 0; i < 400; ++i) s.text += "so far so good ";
  s.text_name = "a text";
  const ScalingResult result = run_scaling(device, s, folder.path(), [](const auto&) {});
  ASSERT_EQ(result.comparison.models.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const ComparedModel& m = result.comparison.models[i].what;
    const double a_step = 32 * training_operations(m.model, 16);
    EXPECT_NEAR(static_cast<double>(m.train.steps) * a_step, result.operations[i / 2], a_step);
  }
  const std::string page = scaling_report(s, result).html();
  EXPECT_NE(page.find("LSTM, fitted"), std::string::npos);
}

}  // namespace
}  // namespace elapse

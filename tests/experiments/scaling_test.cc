// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/scaling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/backends/cpu/diagonal_ssm_plan.h"
#include "elapse/backends/cpu/ssd_plan.h"
#include "elapse/experiments/power_law.h"
#include "elapse/experiments/task_model.h"
#include "elapse/model/mixer_form.h"
#include "elapse/ops/attention.h"
#include "elapse/ops/gated_linear_attention.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

constexpr int64_t kClasses = 256;

ModelConfig one_layer(MixerKind mixer, int64_t d_model = 64) {
  return with_heads(mixer, d_model, 1, kClasses);
}

double mixing(const ModelConfig& c, const StepShape& step) {
  return form_of(c.mixer).mixing_operations(c, step);
}

// By what the layers themselves say they do with a parameter.
double linear_map_weights(const ModelConfig& config) {
  Device device("cpu", 1);
  double weights = 0;
  const Parameters::Source source = {
      [&](const std::string& name, const Shape& shape, ParameterUse use) {
        const bool maps = use == ParameterUse::matrix && name != "backbone.embedding.weight";
        if (maps) weights += static_cast<double>(shape.numel());
        return device.zeros(DType::f32, shape);
      }};
  const LanguageModel model(device, config, DType::f32, source);
  return weights + static_cast<double>(config.vocab() * config.d_model);  // the head
}

TEST(Scaling, OperationsAreOfLinearMapsAndOfWhatMixesTokens) {
  const StepShape step = {128, 4};
  for (size_t kind = 0; kind < kMixerKinds; ++kind) {
    const auto mixer = static_cast<MixerKind>(kind);
    ModelConfig config = scaled_model(mixer, 32, 40000, 128);
    const double layers = static_cast<double>(config.n_layers);
    EXPECT_EQ(training_operations(config, step),
              3 * (2 * linear_map_weights(config) + layers * mixing(config, step)))
        << name_of(mixer);
  }
  // A cell's two maps and the one out, and the head: nothing beside.
  const ModelConfig rnn = ModelConfig::of(MixerKind::rnn, 8, 1, kClasses);
  EXPECT_EQ(training_operations(rnn, step), 3 * 2.0 * (3 * 64 + 256 * 8));
  // 16 states a channel and 4 taps, by the scan's loop.
  EXPECT_EQ(mixing(one_layer(MixerKind::mamba), step), 128 * (7 * 16 + 2 * 4));
  for (const MixerKind mixer : {MixerKind::lstm, MixerKind::gru, MixerKind::wavenet}) {
    EXPECT_EQ(mixing(one_layer(mixer), step), 0) << name_of(mixer);
  }
}

TEST(Scaling, OperationsOfAttentionAreThoseOfThePairsItSees) {
  ModelConfig config = one_layer(MixerKind::attention);
  for (const auto& [window, dilation] : {std::pair<int64_t, int64_t>{0, 1}, {50, 1}, {64, 3}}) {
    config.window = window;
    config.dilation = dilation;
    for (const int64_t length : {1, 49, 50, 51, 1000}) {
      const auto pairs = static_cast<double>(attention_pairs({window, dilation}, 0, length));
      EXPECT_DOUBLE_EQ(mixing(config, {length, 1}), 4 * 64 * pairs / static_cast<double>(length));
    }
  }
}

TEST(Scaling, OperationsOfTheDualAreThoseOfItsChunks) {
  Device device("cpu", 1);
  for (const MixerKind mixer : {MixerKind::mamba2, MixerKind::retnet}) {
    const ModelConfig c = one_layer(mixer);
    const int64_t groups = mixer == MixerKind::mamba2 ? c.n_groups : c.n_heads();
    for (const int64_t length : {32, 64, 256, 4096}) {
      SsdInputs in;
      in.x = device.empty(DType::f32, {length, c.d_inner});
      in.A = device.empty(DType::f32, {c.n_heads()});
      in.B = device.empty(DType::f32, {length, groups * c.d_state});
      in.n_groups = groups;
      in.seqs = make_sequences(device, {length});
      int64_t products = 0;
      for (const cpu::SsdChunk& chunk : cpu::SsdPlan(in, true).chunks) {
        const int64_t states = 2 * c.d_inner * c.d_state;
        products += chunk.rows * (states + chunk.rows * (c.d_inner / 2 + groups * c.d_state));
      }
      const int64_t taps = mixer == MixerKind::mamba2 ? 4 * c.d_conv_inner() : 0;
      EXPECT_DOUBLE_EQ(mixing(c, {length, 1}),
                       2 * (static_cast<double>(products) / static_cast<double>(length) +
                            static_cast<double>(taps)))
          << name_of(mixer) << " " << length;
    }
  }
  // Linear attention's normaliser is one more channel a head, with products of its own.
  const ModelConfig plain = one_layer(MixerKind::linear_attention);
  ModelConfig alone = plain, normaliser = plain;
  alone.mixer = normaliser.mixer = MixerKind::retnet;
  normaliser.d_inner = plain.n_heads();
  normaliser.head_dim = 1;
  EXPECT_EQ(mixing(plain, {256, 1}), mixing(alone, {256, 1}) + mixing(normaliser, {256, 1}));
}

// Of a head of a sequence from a state to a state, by the loop over blocks of the cpu's forward
// kernel (ForwardTask::blocks) and the sizes of its products.
int64_t gla_products(int64_t d_k, int64_t d_v, int64_t length) {
  constexpr int64_t kChunk = GlaInputs::kChunk, kBlock = GlaInputs::kBlock;
  int64_t products = 0;
  for (int64_t chunk = 0; chunk < length; chunk += kChunk) {
    for (int64_t t = chunk; t < std::min(length, chunk + kChunk); t += kBlock) {
      for (int64_t j = 0; j < kBlock; ++j) products += (kBlock - j) * 2 * d_k;  // column_of_P
      products += kBlock * d_v * d_k + kBlock * d_v * kBlock;                   // outputs
      products += d_v * d_k + d_v * d_k * kBlock;                               // write_states
    }
  }
  return products;
}

TEST(Scaling, OperationsOfGatedLinearAttentionAreThoseOfItsBlocks) {
  const ModelConfig c = one_layer(MixerKind::gla);
  for (const int64_t length : {2, 15, 16, 17, 63, 64, 65, 256, 4096}) {
    const int64_t products = c.n_heads() * gla_products(c.d_state, c.head_dim, length);
    EXPECT_DOUBLE_EQ(mixing(c, {length, 1}),
                     2 * static_cast<double>(products) / static_cast<double>(length));
  }
}

// Forward and backward, as ssm_plan weighs them: the filter's run and its transforms once.
TEST(Scaling, OperationsOfDiagonalStatesAreNearThoseTheKernelsPlanBy) {
  const ModelConfig c = one_layer(MixerKind::s4d);
  for (const int64_t length : {64, 256, 1024, 8192}) {
    for (const int64_t sequences : {8, 32}) {
      const int64_t filter = cpu::recurrence_operations(length, c.d_state / 2, true);
      const int64_t all = filter + (sequences / 2 + 1) * cpu::pair_operations(length);
      const double planned =
          64 * static_cast<double>(all) / static_cast<double>(length * sequences);
      EXPECT_NEAR(3 * mixing(c, {length, sequences}) / planned, 1, 0.25)
          << length << " " << sequences;
    }
  }
  // One sequence goes through its states alone.
  EXPECT_EQ(mixing(c, {1024, 1}), 64 * 14 * 32);
  const ModelConfig h3 = one_layer(MixerKind::h3);
  EXPECT_EQ(mixing(h3, {256, 8}), mixing(c, {256, 8}) + 64 * 2 * 64);
}

TEST(Scaling, OperationsOfHyenaAreNearThoseTheKernelsPlanBy) {
  for (const int64_t length : {64, 256, 1024, 8192}) {
    ModelConfig c = one_layer(MixerKind::hyena);
    c.l_max = length;
    constexpr int64_t kSequences = 8;
    const int64_t size = cpu::transform_size(2 * length - 1);
    const int64_t transform = cpu::transform_operations(size);
    const int64_t all = kSequences / 2 * (2 * transform + 6 * size) + transform;
    const double maps = 2.0 * 64 * (33 + 2 * 64 + 64) / kSequences;
    const double planned = 64 * static_cast<double>(all) / static_cast<double>(length * kSequences);
    EXPECT_NEAR(mixing(c, {length, kSequences}) / (planned + maps + 2 * 3 * 3 * 64), 1, 0.1)
        << length;
  }
}

// A layer's training on one batch against the length of its sequences. That the counts are the
// kernels' is the matter of the tests above.
TEST(Scaling, OperationsGrowInTheOrderThatIsStated) {
  constexpr int64_t kSequences = 8;
  for (size_t kind = 0; kind < kMixerKinds; ++kind) {
    const auto mixer = static_cast<MixerKind>(kind);
    const auto operations = [&](int64_t length) {
      ModelConfig c = one_layer(mixer, 16);  // so narrow that linear maps hide nothing
      if (mixer == MixerKind::hyena) c.l_max = length;
      const double head = 3 * 2 * 16 * kClasses;
      return static_cast<double>(length) * (training_operations(c, {length, kSequences}) - head);
    };
    const double twice = operations(1 << 17) / operations(1 << 16);
    if (mixer == MixerKind::attention) {  // length^2
      EXPECT_NEAR(twice, 4, 0.02);
    } else if (mixer == MixerKind::hyena || is_diagonal(mixer)) {  // length log length
      EXPECT_GT(twice, 2.03) << name_of(mixer);
      EXPECT_LT(twice, 2.0 * 18 / 17) << name_of(mixer);
    } else {  // length
      EXPECT_DOUBLE_EQ(twice, 2) << name_of(mixer);
    }
  }
}

TEST(Scaling, AWarmUpThatFillsHalfTheTrainingIsRefused) {
  ScalingSettings s = ScalingSettings::quick();
  for (ScalingSettings sound : {s, ScalingSettings::full()}) {
    const StepShape step = {sound.train.length, sound.train.sequences(sound.train.length)};
    for (const auto& size : sound.sizes) {
      const ModelConfig mamba = ModelConfig::mamba(size.d_model, size.n_layers, kClasses);
      const double operations = training_operations(mamba, step) * sound.tokens_per_parameter *
                                static_cast<double>(mamba.parameter_count());
      const int64_t parameters = mamba.parameter_count() - kClasses * size.d_model;
      for (size_t kind = 0; kind < kMixerKinds; ++kind) {
        const auto mixer = static_cast<MixerKind>(kind);
        const ModelConfig model = scaled_model(mixer, size.d_model, parameters, step.length);
        EXPECT_GE(scaled_steps(sound, model, operations), 100) << name_of(mixer);
      }
    }
  }
  const ModelConfig model = ModelConfig::mamba(32, 4, kClasses);
  const double a_step = 2048 * training_operations(model, {256, 8});
  EXPECT_EQ(scaled_steps(s, model, 100 * a_step), 100);
  expect_error([&] { scaled_steps(s, model, 99 * a_step); },
               "99 steps of 2048 tokens for Mamba, 4 layers of d_model 32: expected twice the "
               "warm-up of 50");
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
      const ModelConfig other =
          scaled_model(mixer, size.d_model, static_cast<int64_t>(mamba), s.train.length);
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
  losses[1] = NAN;
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
    const double a_step = 32 * training_operations(m.model, {16, 2});
    EXPECT_NEAR(static_cast<double>(m.train.steps) * a_step, result.operations[i / 2], a_step);
  }
  EXPECT_NE(unlike_published(s, result).find("2 sizes of d_model 8 to 16 within a factor of "),
            std::string::npos);
  EXPECT_NE(unlike_published(s, result).find("6000 bytes of text"), std::string::npos);
  const std::string page = scaling_report(s, result).html();
  EXPECT_NE(page.find(unlike_published(s, result)), std::string::npos);
  EXPECT_NE(page.find("LSTM, fitted"), std::string::npos);
}

}  // namespace
}  // namespace elapse

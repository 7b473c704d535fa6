// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/attention_weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/interpret/runs.h"
#include "elapse/mixers/attention.h"

namespace elapse {
namespace {

// The weights add up to one, and with the values give what the heads read.
TEST(AttentionWeights, GiveWhatTheHeadsRead) {
  Device device("cpu", 2);
  for (const Positions positions : {Positions::none, Positions::rotary, Positions::xpos}) {
    for (const int64_t window : {0, 5}) {
      ModelConfig config = ModelConfig::of(MixerKind::attention, 24, 2, 13);
      config.head_dim = 6;
      config.n_kv_heads = 2;
      config.positions = positions;
      config.rope_theta = positions == Positions::none ? 0 : 100;
      config.window = window;
      config.dilation = window > 0 ? 2 : 1;
      const LanguageModel model(device, config, DType::f32, 3);
      for (const Parameter& p : model.parameters().all()) {
        float* data = p.var.value().data<float>();  // scores that tell tokens apart
        for (int64_t i = 0; i < p.var.value().numel(); ++i) data[i] *= 20;
      }
      const std::vector<int64_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5};
      const auto length = std::ssize(tokens);
      const std::vector<double> weights = attention_weights(model, 1, tokens);
      Points points;
      points.watch("layers.1.mixer.v");
      points.watch("layers.1.mixer.z");
      Tape tape(device, false);
      model.forward(tape, pack(model, {tokens}), nullptr, &points);
      const auto v = host_values(device, points.value("layers.1.mixer.v"));
      const auto z = host_values(device, points.value("layers.1.mixer.z"));
      for (int64_t i = 0; i < length; ++i) {
        for (int64_t h = 0; h < 4; ++h) {
          const double* row = weights.data() + (h * length + i) * length;
          double sum = 0;
          for (int64_t j = 0; j < length; ++j) {
            sum += row[j];
            if (j > i || (window > 0 && (i - j >= window || (i - j) % 2 != 0))) {
              EXPECT_EQ(row[j], 0);
            }
          }
          EXPECT_NEAR(sum, 1, 1e-12);
          for (int64_t e = 0; e < 6; ++e) {
            double read = 0;
            for (int64_t j = 0; j < length; ++j) {
              read += row[j] * v[static_cast<size_t>((j * 2 + h / 2) * 6 + e)];
            }
            EXPECT_NEAR(read, z[static_cast<size_t>((i * 4 + h) * 6 + e)],
                        1e-4 * std::max(1.0, std::abs(read)));
          }
        }
      }
    }
  }
}

TEST(AttentionWeights, AreThoseOfAttentionAlone) {
  Device device("cpu", 1);
  const LanguageModel model(device, ModelConfig::mamba(8, 1, 5), DType::f32, 1);
  EXPECT_THROW(attention_weights(model, 0, {1, 2}), Error);
}

}  // namespace
}  // namespace elapse

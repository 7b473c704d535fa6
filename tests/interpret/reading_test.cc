// SPDX-License-Identifier: Apache-2.0
// What only reads a model: the lens, direct attribution, hidden attention.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "elapse/interpret/direct_attribution.h"
#include "elapse/interpret/hidden_attention.h"
#include "elapse/interpret/lens.h"
#include "tests/interpret/planted.h"

namespace elapse {
namespace {

const std::vector<int64_t> kTokens = {3, 1, 4, 1, 5, 2, 6};

ModelConfig config_of(MixerKind mixer, int64_t n_groups = 1) {
  ModelConfig config =
      mixer == MixerKind::mamba ? ModelConfig::mamba(20, 3, 8) : ModelConfig::mamba2(20, 3, 8);
  config.d_state = 4;
  if (mixer == MixerKind::mamba2) {
    config.head_dim = 10;
    config.n_groups = n_groups;
  }
  config.bias = true;
  return config;
}

class Reading : public testing::TestWithParam<std::tuple<MixerKind, int64_t>> {
 protected:
  Reading()
      : device_("ref"),
        model_(device_, config_of(std::get<0>(GetParam()), std::get<1>(GetParam())), DType::f64,
               5) {
    Random random(3);
    for (const char* name : {"in_proj.bias", "out_proj.bias"}) {
      for (int64_t i = 0; i < 3; ++i) {
        const Tensor bias = model_.parameters()
                                .find(fmt::format("backbone.layers.{}.mixer.{}", i, name))
                                ->var.value();
        for (int64_t k = 0; k < bias.numel(); ++k) bias.data<double>()[k] = random.normal();
      }
    }
  }

  std::vector<double> watched(const std::string& point, Points points = {}) {
    points.watch(point);
    Tape tape(device_, false);
    model_.forward(tape, pack(model_, {kTokens}), nullptr, &points);
    return host_values(device_, points.value(point));
  }

  Device device_;
  LanguageModel model_;
};

TEST_P(Reading, DirectAttributionSumsToTheLogitDifference) {
  const Answer answer = {2, 7};
  const DirectAttribution found = direct_attribution(model_, kTokens, answer);
  const double f =
      logit_differences(last_logits(model_, pack(model_, {kTokens})), {answer}).front();
  const double sum = std::accumulate(found.by_layer.begin(), found.by_layer.end(), found.embed);
  EXPECT_EQ(found.total, f);
  EXPECT_NEAR(sum, f, 1e-12);
  for (int64_t layer = 0; layer < 3; ++layer) {
    const LayerAttribution parts = layer_attribution(model_, layer, kTokens, answer);
    EXPECT_NEAR(parts.share(), found.by_layer[size_t(layer)], 1e-12) << "layer " << layer;
    const std::vector<double> by_token = parts.by_token();
    const double skipped = std::accumulate(parts.by_skip.begin(), parts.by_skip.end(), parts.bias);
    EXPECT_NEAR(std::accumulate(by_token.begin(), by_token.end(), skipped), parts.share(), 1e-12);
  }
}

TEST_P(Reading, HiddenAttentionAddsUpToTheScan) {
  for (int64_t layer = 0; layer < 3; ++layer) {
    const HiddenAttention attention(model_, layer, kTokens);
    const std::vector<double> expected = watched(fmt::format("layers.{}.mixer.ssm_out", layer));
    const int64_t d_inner = attention.channels();
    for (int64_t i = 0; i < attention.tokens(); ++i) {
      const std::vector<double> parts = attention.contributions(i);
      std::vector<double> sum = attention.skip(i);
      for (size_t k = 0; k < parts.size(); ++k) sum[k % sum.size()] += parts[k];
      for (int64_t e = 0; e < d_inner; ++e) {
        EXPECT_NEAR(sum[size_t(e)], expected[size_t(i * d_inner + e)], 1e-12);
      }
    }
  }
}

// To knock out what a token writes is to take its column out.
TEST_P(Reading, AColumnIsWhatATokenWrites) {
  const int64_t kSource = 2;
  const HiddenAttention attention(model_, 1, kTokens);
  Points points;
  const Tensor zero = device_.zeros(DType::f64, {1});
  points.edit({"layers.1.mixer.write", EditOp::set, zero, {.positions = {kSource}}});
  const std::vector<double> plain = watched("layers.1.mixer.ssm_out"),
                            cut = watched("layers.1.mixer.ssm_out", points);
  const int64_t d_inner = attention.channels();
  for (int64_t i = 0; i < attention.tokens(); ++i) {
    for (int64_t e = 0; e < d_inner; ++e) {
      const auto at = static_cast<size_t>(i * d_inner + e);
      const double column =
          i < kSource ? 0 : attention.contributions(i)[size_t(kSource * d_inner + e)];
      EXPECT_NEAR(plain[at] - cut[at], column, 1e-12);
    }
  }
}

TEST_P(Reading, HiddenAttentionOfOneTokenIsTheFormula) {
  const HiddenAttention attention(model_, 0, {kTokens[0]});
  Points points;
  for (const char* name : {"dt", "B", "C"}) points.watch(fmt::format("layers.0.mixer.{}", name));
  Tape tape(device_, false);
  model_.forward(tape, pack(model_, {{kTokens[0]}}), nullptr, &points);
  const auto dt = host_values(device_, points.value("layers.0.mixer.dt"));
  const auto B = host_values(device_, points.value("layers.0.mixer.B"));
  const auto C = host_values(device_, points.value("layers.0.mixer.C"));
  const double expected = dt[0] * std::inner_product(B.begin(), B.begin() + 4, C.begin(), 0.0);
  EXPECT_NEAR(attention.row(0)[0], expected, 1e-15);
}

TEST_P(Reading, MapsReduceRows) {
  const HiddenAttention attention(model_, 2, kTokens);
  const auto signed_map = attention.map(HiddenAttention::Reduction::mean);
  const auto absolute = attention.map(HiddenAttention::Reduction::mean_absolute);
  const int64_t n = attention.tokens();
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> row = attention.row(i);
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t e = 0; j <= i && e < attention.channels(); ++e) {
        sum += row[size_t(j * attention.channels() + e)] / double(attention.channels());
      }
      EXPECT_NEAR(signed_map[size_t(i * n + j)], sum, 1e-15);
      EXPECT_GE(absolute[size_t(i * n + j)], std::abs(sum) - 1e-15);
      if (j > i) {
        EXPECT_EQ(absolute[size_t(i * n + j)], 0);
      }
    }
  }
}

TEST_P(Reading, TheLensEndsAsTheModelDoes) {
  const Answer answer = {2, 7};
  const LogitLens lens = logit_lens(model_, kTokens, answer);
  EXPECT_EQ(lens.rows, 4);
  EXPECT_EQ(lens.columns, 7);
  const LastLogits logits = last_logits(model_, pack(model_, {kTokens}));
  EXPECT_NEAR(lens.at(3, 6).logit_difference, logit_differences(logits, {answer}).front(), 1e-12);
  EXPECT_EQ(lens.at(3, 6).rank, ranks(logits, {answer}).front());
  // Before the first layer a token is all that its stream knows.
  EXPECT_EQ(lens.at(0, 1).logit_difference, lens.at(0, 3).logit_difference);
}

INSTANTIATE_TEST_SUITE_P(Mixers, Reading,
                         testing::Values(std::tuple{MixerKind::mamba, int64_t{1}},
                                         std::tuple{MixerKind::mamba2, int64_t{1}},
                                         std::tuple{MixerKind::mamba2, int64_t{2}}));

TEST(HiddenAttention, HoldsItsPrecisionOverManyTokens) {
  Device device("cpu", 1);
  ModelConfig config = ModelConfig::mamba(32, 1, 8);
  const LanguageModel model(device, config, DType::f32, 5);
  const std::vector<int64_t> tokens = planted::sequences(1, 1, 512).front();
  const HiddenAttention attention(model, 0, tokens);
  Points points;
  points.watch("layers.0.mixer.ssm_out", {.positions = {511}});
  Tape tape(device, false);
  model.forward(tape, pack(model, {tokens}), nullptr, &points);
  const std::vector<double> expected = host_values(device, points.value("layers.0.mixer.ssm_out"));
  const std::vector<double> parts = attention.contributions(511);
  std::vector<double> sum = attention.skip(511);
  for (size_t k = 0; k < parts.size(); ++k) sum[k % sum.size()] += parts[k];
  for (size_t e = 0; e < sum.size(); ++e) EXPECT_NEAR(sum[e], expected[e], 1e-5);
}

TEST(ReadingErrors, NameWhatIsNotThere) {
  Device device("ref");
  const LanguageModel model(device, config_of(MixerKind::mamba), DType::f64, 5);
  EXPECT_THROW(HiddenAttention(model, 3, kTokens), Error);
  EXPECT_THROW(HiddenAttention(model, 0, kTokens).row(7), Error);
  EXPECT_THROW(direct_attribution(model, kTokens, {0, 8}), Error);
  EXPECT_THROW(logit_lens(model, {}, {0, 1}), Error);
}

}  // namespace
}  // namespace elapse

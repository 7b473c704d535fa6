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
  if (n_groups == 0) config.choose_selection(false, true, false, false);
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

  static double sum(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
  }

  Device device_;
  LanguageModel model_;
};

TEST_P(Reading, DirectAttributionSumsToTheLogitDifference) {
  const Answer answer = {2, 7};
  const DirectAttribution found(model_, kTokens, answer, {0, 1, 2});
  const double f =
      logit_differences(last_logits(model_, pack(model_, {kTokens})), {answer}).front();
  EXPECT_EQ(found.total(), f);
  EXPECT_NEAR(found.embed() + sum(found.by_block()), f, 1e-12);
  for (int64_t layer = 0; layer < 3; ++layer) {
    const LayerAttribution parts = found.layer(layer);
    const double share = found.by_block()[size_t(layer)];
    EXPECT_NEAR(parts.share(), share, 1e-12) << "layer " << layer;
    EXPECT_NEAR(sum(parts.by_token()) + sum(parts.by_skip) + parts.bias, share, 1e-12);
    EXPECT_NEAR(sum(parts.by_channel()) + parts.bias, share, 1e-12);
    for (const int64_t channel : {int64_t{0}, int64_t{17}, parts.channels - 1}) {
      const auto e = static_cast<size_t>(channel);
      EXPECT_NEAR(sum(found.channel_by_state(layer, channel)) + parts.by_skip[e],
                  parts.by_channel()[e], 1e-12);
    }
  }
}

// The mixer's output of each channel alone is what its share is made of.
TEST_P(Reading, ChannelsAndTokensHaveTheSharesThatTheirEditsTakeAway) {
  const Answer answer = {2, 7};
  const DirectAttribution found(model_, kTokens, answer, {2});
  const LayerAttribution parts = found.layer(2);
  // Layer 2 is the last, so that f with its norms' scales held is linear in what it writes: cut a
  // token's writing to one channel, and weigh what the layer adds by the direction that was held.
  const int64_t source = 4, channel = 11;
  Points cut;
  const Tensor zero = device_.zeros(DType::f64, {1});
  cut.edit({"layers.2.mixer.write",
            EditOp::set,
            zero,
            {.positions = {source}, .channels = {channel, channel + 1}}});
  const std::string ssm_out = "layers.2.mixer.ssm_out";
  const size_t last = size_t(6 * parts.channels + channel);
  const double change = watched(ssm_out)[last] - watched(ssm_out, cut)[last];
  const double brought = parts.by_source[size_t(source * parts.channels + channel)];
  const HiddenAttention attention(model_, 2, kTokens);
  const double slope = parts.by_skip[size_t(channel)] / attention.skip(6)[size_t(channel)];
  EXPECT_NEAR(brought, slope * change, 1e-12);
}

// Row i of a layer's map is its attribution after token i.
TEST_P(Reading, MapsOfAttributionHaveARowAToken) {
  const Answer answer = {2, 7};
  const std::vector<double> map = DirectAttribution(model_, kTokens, answer, {1}).map(1);
  for (size_t i = 0; i < kTokens.size(); ++i) {
    const std::vector<int64_t> prefix(kTokens.begin(), kTokens.begin() + int64_t(i) + 1);
    const std::vector<double> expected =
        DirectAttribution(model_, prefix, answer, {1}).layer(1).by_token();
    for (size_t j = 0; j < kTokens.size(); ++j) {
      EXPECT_NEAR(map[i * kTokens.size() + j], j <= i ? expected[j] : 0, 1e-12);
    }
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
  const int64_t n = attention.tokens(), units = attention.units();
  const auto of_last = attention.map_of_unit(units - 1);
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> row = attention.row(i);
    for (int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<size_t>(i * n + j);
      double mean = 0, sizes = 0;
      for (int64_t u = 0; j <= i && u < units; ++u) {
        mean += row[size_t(j * units + u)] / double(units);
        sizes += std::abs(row[size_t(j * units + u)]) / double(units);
      }
      EXPECT_NEAR(signed_map[at], mean, 1e-15);
      EXPECT_NEAR(absolute[at], sizes, 1e-15);
      EXPECT_EQ(of_last[at], j <= i ? row[size_t(j * units + units - 1)] : 0);
      if (j > i) {
        EXPECT_EQ(absolute[at], 0);
      }
    }
  }
}

TEST_P(Reading, StatesAddUpToTheirChannel) {
  const HiddenAttention attention(model_, 1, kTokens);
  const int64_t channel = 13, query = 5, states = attention.states();
  const std::vector<double> whole = attention.contributions(query);
  const std::vector<double> apart = attention.contributions_by_state(query, channel);
  for (int64_t j = 0; j <= query; ++j) {
    const auto first = apart.begin() + j * states;
    EXPECT_NEAR(std::accumulate(first, first + states, 0.0),
                whole[size_t(j * attention.channels() + channel)], 1e-15);
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
  double all = 0;
  const auto guesses = logit_lens(model_, kTokens, answer, 1000).at(3, 6).likeliest;
  for (size_t i = 0; i < guesses.size(); ++i) {
    all += guesses[i].probability;
    EXPECT_LE(guesses[i].probability, guesses[i > 0 ? i - 1 : 0].probability);
  }
  EXPECT_NEAR(all, 1, 1e-12);
  EXPECT_EQ(lens.at(3, 6).likeliest.size(), 5u);
  EXPECT_EQ(lens.at(3, 6).likeliest.front().token, guesses.front().token);
  // Before the first layer a token is all that its stream knows.
  EXPECT_EQ(lens.at(0, 1).logit_difference, lens.at(0, 3).logit_difference);
}

INSTANTIATE_TEST_SUITE_P(Mixers, Reading,
                         testing::Values(std::tuple{MixerKind::mamba, int64_t{0}},
                                         std::tuple{MixerKind::mamba, int64_t{1}},
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
  EXPECT_THROW(HiddenAttention(model, 0, kTokens).map_of_unit(40), Error);
  EXPECT_THROW(HiddenAttention(model, 0, kTokens).contributions_by_state(0, -1), Error);
  EXPECT_THROW(DirectAttribution(model, kTokens, {0, 8}), Error);
  EXPECT_THROW(DirectAttribution(model, kTokens, {0, 1}, {3}), Error);
  EXPECT_THROW(DirectAttribution(model, kTokens, {0, 1}, {1}).layer(0), Error);
  EXPECT_THROW(logit_lens(model, {}, {0, 1}), Error);
  EXPECT_THROW(logit_lens(model, kTokens, {0, 1}, 0), Error);
}

}  // namespace
}  // namespace elapse

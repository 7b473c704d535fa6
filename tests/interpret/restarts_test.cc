// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/restarts.h"

#include <gtest/gtest.h>

#include "tests/interpret/planted.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

LanguageModel some_model(Device& device, int64_t n_layers, MixerKind mixer = MixerKind::mamba) {
  ModelConfig config = mixer == MixerKind::mamba ? ModelConfig::mamba(20, n_layers, 8)
                                                 : ModelConfig::mamba2(20, n_layers, 8);
  config.d_state = 4;
  return {device, config, DType::f64, 5};
}

std::vector<Prompt> prompts_of(const TokenLists& lists) {
  std::vector<Prompt> prompts;
  for (const auto& tokens : lists) prompts.push_back({tokens});
  return prompts;
}

const std::vector<Prompt> kPrompts = prompts_of({{1, 2, 3, 4}, {4, 5, 6, 7, 0, 1}, {6}});

EditPlan plan_of(const LanguageModel& model, const std::string& json,
                 const std::vector<Prompt>& prompts = kPrompts) {
  return {model, parse_edits(json, "edits"), prompts, kPrompts};
}

TEST(Restarts, KeepThePlainRun) {
  Device device("ref");
  const LanguageModel model = some_model(device, 2);
  const TokenLists prompts = tokens_of(kPrompts);
  const Restarts restarts(model, prompts);
  const LastLogits expected = last_logits(model, pack(model, prompts));
  for (size_t i = 0; i < expected.values.size(); ++i) {
    EXPECT_NEAR(restarts.plain().values[i], expected.values[i], 1e-12);
  }
  EXPECT_EQ(restarts.first_row(2), 10);
  EXPECT_THROW(Restarts(model, {{}}), Error);
  EXPECT_THROW(Restarts(model, {{8}}), Error);
}

TEST(Variants, AreWhatWholePassesAre) {
  Device device("ref");
  for (const MixerKind mixer : {MixerKind::mamba, MixerKind::mamba2}) {
    const LanguageModel model = some_model(device, 3, mixer);
    std::vector<EditPlan> plans;
    for (const char* json :
         {"[]", R"([{"point": "embed", "op": "scale", "value": 2, "positions": [-1]}])",
          R"([{"point": "layers.2.mixer.h", "op": "mean", "positions": [-2], "prompts": [0, 1]}])",
          R"([{"point": "layers.1.mixer.out", "op": "zero", "positions": [0]},
              {"point": "layers.2.mixer.x", "op": "add", "value": 1, "positions": [-1]}])",
          R"([{"point": "layers.*.layer_input", "op": "resample", "prompts": [1]}])",
          R"([{"point": "layers.1.mixer.h_start", "op": "set", "value": 1}])",
          R"([{"point": "layers.1.mixer.conv_state", "op": "set", "value": 1, "prompts": [1]}])",
          R"([{"point": "norm_f", "op": "scale", "value": 2, "positions": [-1]}])",
          R"([{"point": "logits", "op": "add", "value": 3, "prompts": [2]}])"}) {
      plans.push_back(plan_of(model, json));
    }
    for (const int64_t batch_tokens : {1, 9, 1000}) {
      VariantOptions options;
      options.batch_tokens = batch_tokens;
      options.state_bytes = batch_tokens == 9 ? 1 : 1'000'000;
      const std::vector<LastLogits> found = run_variants(model, plans, options);
      ASSERT_EQ(found.size(), plans.size());
      for (size_t v = 0; v < plans.size(); ++v) {
        const LastLogits expected = edited_logits(model, plans[v]);
        for (size_t i = 0; i < expected.values.size(); ++i) {
          EXPECT_NEAR(found[v].values[i], expected.values[i], 1e-12) << "variant " << v;
        }
      }
    }
  }
}

TEST(Variants, ASweepRunsWhatItChangesAlone) {
  Device device("ref");
  constexpr int64_t kLayers = 12, kTokens = 16;
  const LanguageModel model = some_model(device, kLayers);
  const std::vector<Prompt> prompts = prompts_of(planted::sequences(1, 1, kTokens));
  std::vector<EditPlan> plans;
  for (int64_t l = 0; l < kLayers; ++l) {
    for (int64_t t = 0; t < kTokens; ++t) {
      plans.push_back(plan_of(
          model,
          fmt::format(R"([{{"point": "layers.{}.mixer.out", "op": "zero", "positions": [{}]}}])", l,
                      t),
          prompts));
    }
  }
  int64_t last = 0;
  VariantOptions options;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, kLayers * kTokens);
    last = done;
  };
  const int64_t before = model.path_counts().layer_tokens;
  const std::vector<LastLogits> found = run_variants(model, plans, options);
  const int64_t spent = model.path_counts().layer_tokens - before;
  EXPECT_LE(spent * 10, kLayers * kTokens * kLayers * kTokens * 3);
  EXPECT_EQ(last, kLayers * kTokens);
  for (const size_t v : {size_t{0}, size_t{77}, plans.size() - 1}) {
    const LastLogits expected = edited_logits(model, plans[v]);
    for (int64_t c = 0; c < expected.classes; ++c) {
      EXPECT_NEAR(found[v](0, c), expected(0, c), 1e-12);
    }
  }
}

TEST(Variants, ThatCannotShareAPassAreRefused) {
  Device device("ref");
  const LanguageModel model = some_model(device, 2);
  EXPECT_TRUE(run_variants(model, {}).empty());
  expect_error(
      [&] {
        run_variants(model, {plan_of(model, R"([{"point": "layers.1.mixer.A", "op": "zero"}])")});
      },
      "point \"layers.1.mixer.A\" is the same for all prompts");
  expect_error(
      [&] {
        run_variants(model, {plan_of(model, "[]"), plan_of(model, "[]", {kPrompts[0]})});
      },
      "expected variants of the same prompts");
}

}  // namespace
}  // namespace elapse

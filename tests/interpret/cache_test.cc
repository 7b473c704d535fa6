// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/cache.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/io/safetensors.h"
#include "tests/interpret/planted.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

const TokenLists kPrompts = {{1, 2, 3}, {4, 5}, {6, 7, 0, 1}, {2}};

LanguageModel some_model(Device& device, MixerKind mixer = MixerKind::mamba) {
  ModelConfig config =
      mixer == MixerKind::mamba ? ModelConfig::mamba(20, 2, 8) : ModelConfig::mamba2(20, 2, 8);
  config.d_state = 4;
  return {device, config, DType::f64, 5};
}

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

TEST(Cache, PatternsMeanPoints) {
  Device device("ref");
  const LanguageModel model = some_model(device);
  EXPECT_EQ(matching_points(model, "layers.*.resid_pre"),
            (std::vector<std::string>{"layers.0.resid_pre", "layers.1.resid_pre"}));
  EXPECT_EQ(matching_points(model, "blocks.1.hook_delta"),
            std::vector<std::string>{"layers.1.mixer.dt"});
  EXPECT_EQ(matching_points(model, "blocks.*.hook_h").size(), 2u);
  EXPECT_EQ(matching_points(model, std::vector<std::string>{"embed", "*", "embed"}).front(),
            "embed");
  expect_error([&] { matching_points(model, "layers.2.resid_pre"); },
               "the model has no point \"layers.2.resid_pre\"");
}

// By the shapes that the values have, not by the list of names.
TEST(Cache, HoldsStatesOfTokensOnlyWhereTheyAreNamed) {
  Device device("ref");
  for (const MixerKind mixer : {MixerKind::mamba, MixerKind::mamba2}) {
    const LanguageModel model = some_model(device, mixer);
    const std::vector<std::string> names = matching_points(model, "*");
    for (const PointInfo& info : model.points()) {
      if (info.axis != PointInfo::Axis::token) continue;
      const int rank =
          cache_activations(model, {{1, 2}}, {.points = {info.name}}).at(info.name).shape().rank();
      const bool of_states = info.name.ends_with(".decay") || rank > 2;
      EXPECT_EQ(has(names, info.name), !of_states) << info.name;
    }
  }
}

TEST(Cache, IsTheSameHoweverPromptsAreBatched) {
  Device device("ref");
  const LanguageModel model = some_model(device);
  const std::vector<std::string> points = {"*", "layers.*.mixer.h"};
  const ActivationCache apart =
      cache_activations(model, kPrompts, {.points = points, .batch_tokens = 1});
  const ActivationCache together = cache_activations(model, kPrompts, {.points = points});
  EXPECT_EQ(apart.lengths, (std::vector<int64_t>{3, 2, 4, 1}));
  EXPECT_EQ(together.at("layers.1.mixer.h").shape(), (Shape{10, 40, 4}));
  EXPECT_EQ(together.at("layers.1.mixer.A").shape(), (Shape{40, 4}));
  EXPECT_EQ(together.at("layers.1.mixer.h_start").dim(0), 4);
  EXPECT_EQ(together.at("logits").dim(0), 10);
  for (const CacheDifference& d : difference(apart, together)) {
    EXPECT_LT(d.largest, 1e-12) << d.point;
  }
}

TEST(Cache, KeepsWhatIsSelected) {
  Device device("ref");
  const LanguageModel model = some_model(device);
  const TokenLists prompts = {{1, 2, 3}, {4, 5, 6, 7}};
  const std::string point = "layers.1.mixer.h";
  const ActivationCache all = cache_activations(model, prompts, {.points = {point}});
  const CacheOptions options = {.points = {point, "layers.1.mixer.A"},
                                .where = {.positions = {2, 0}, .channels = {3, 5}},
                                .batch_tokens = 1};
  const ActivationCache part = cache_activations(model, prompts, options);
  ASSERT_EQ(part.at(point).shape(), (Shape{4, 2, 4}));
  const int64_t rows[] = {2, 0, 5, 3};
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(part.at(point).data<double>()[r * 8 + i],
                all.at(point).data<double>()[(rows[r] * 40 + 3) * 4 + i]);
    }
  }
  expect_error([&] { cache_activations(model, prompts, {.where = {.positions = {3}}}); },
               "prompt 0: expected positions of 0 to 2, found 3");
  expect_error([&] { cache_activations(model, prompts, {.where = {.sequences = {0}}}); },
               "a cache is of all prompts");
  expect_error([&] { cache_activations(model, {}, {}); }, "at least one prompt");
}

TEST(Cache, ComesBackFromAFile) {
  Device device("ref");
  const LanguageModel model = some_model(device);
  const TemporaryFolder folder;
  const ActivationCache saved =
      cache_activations(model, {{1, 2, 3}, {4, 5}}, {.where = {.positions = {1}}});
  save_cache(folder / "cache", saved);
  const ActivationCache loaded = load_cache(folder / "cache");
  EXPECT_EQ(loaded.lengths, saved.lengths);
  EXPECT_EQ(loaded.positions, saved.positions);
  ASSERT_EQ(loaded.values.size(), saved.values.size());
  EXPECT_EQ(loaded.bytes(), saved.bytes());
  for (const CacheDifference& d : difference(saved, loaded)) EXPECT_EQ(d.largest, 0) << d.point;
}

TEST(Cache, FilesThatAreNone) {
  const TemporaryFolder folder;
  const std::vector<float> one = {1};
  const Tensor t = Tensor::wrap(const_cast<float*>(one.data()), DType::f32, {1});
  const auto fault = [&](const std::map<std::string, std::string>& metadata,
                         const std::string& part) {
    write_safetensors(folder / "file", {{"embed", t}}, metadata);
    expect_error([&] { load_cache(folder / "file"); }, part);
  };
  fault({}, "expected \"lengths\" in its metadata");
  fault({{"lengths", "3"}}, "expected \"positions\" in its metadata");
  fault({{"lengths", ""}, {"positions", ""}}, "expected a prompt, found none");
  for (const char* wrong : {"3;4", "-1", "x", ",", "99999999999999999999"}) {
    fault({{"lengths", wrong}, {"positions", ""}}, "expected whole numbers with commas between");
  }
}

TEST(Cache, DifferencesAreThoseByHand) {
  std::vector<double> a = {3, 4, 0, 0}, b = {3, 5, 0, 2}, zero = {0, 0, 0, 0};
  const auto cache = [](std::vector<double>& v) {
    return ActivationCache{{2}, {}, {{"embed", Tensor::wrap(v.data(), DType::f64, {2, 2})}}};
  };
  const std::vector<CacheDifference> found = difference(cache(a), cache(b));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].point, "embed");
  EXPECT_EQ(found[0].largest, 2);
  EXPECT_EQ(found[0].mean, 0.75);
  EXPECT_NEAR(found[0].relative, std::sqrt(5.0) / 5, 1e-15);
  const std::vector<double> rows = row_differences(cache(a), cache(b), "hook_embed");
  EXPECT_NEAR(rows[0], 0.2, 1e-15);
  EXPECT_TRUE(std::isinf(rows[1]));
  EXPECT_EQ(difference(cache(zero), cache(zero))[0].relative, 0);
}

TEST(Cache, RefusesToCompareWhatIsNotAlike) {
  Device device("ref");
  const LanguageModel model = some_model(device);
  const auto of = [&](const TokenLists& prompts, const CacheOptions& options) {
    return cache_activations(model, prompts, options);
  };
  const ActivationCache embed = of({{1, 2}}, {.points = {"embed"}});
  expect_error(
      [&] {
        difference(embed, of({{1, 2, 3}}, {.points = {"embed"}}));
      },
      "prompts of the same lengths, found 2 and 3 tokens");
  expect_error(
      [&] {
        difference(embed, of({{1, 2}}, {.points = {"norm_f"}}));
      },
      "no point in common");
  expect_error(
      [&] {
        difference(embed, of({{1, 2}}, {.points = {"embed"}, .where = {.positions = {1}}}));
      },
      "the same positions, found all and 1");
  expect_error(
      [&] {
        difference(embed, of({{1, 2}}, {.points = {"embed"}, .where = {.channels = {0, 2}}}));
      },
      "point \"embed\": expected values of one shape");
  expect_error([&] { embed.at("norm_f"); }, "point \"norm_f\" is not in the cache");
}

}  // namespace
}  // namespace elapse

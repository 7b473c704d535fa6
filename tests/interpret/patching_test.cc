// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/patching.h"

#include <gtest/gtest.h>

#include "tests/interpret/planted.h"

namespace elapse {
namespace {

std::vector<PromptPair> pairs_of(const std::vector<int64_t>& lengths) {
  std::vector<PromptPair> pairs;
  uint64_t seed = 1;
  for (const int64_t length : lengths) {
    pairs.push_back({planted::sequences(seed, 1, length).front(),
                     planted::sequences(seed + 1, 1, length).front(),
                     {int64_t(seed) % 8, int64_t(seed + 3) % 8}});
    seed += 2;
  }
  return pairs;
}

LanguageModel some_model(Device& device, int64_t n_layers, MixerKind mixer) {
  ModelConfig config = mixer == MixerKind::mamba ? ModelConfig::mamba(20, n_layers, 8)
                                                 : ModelConfig::mamba2(20, n_layers, 8);
  config.d_state = 4;
  return {device, config, DType::f64, 5};
}

// A whole pass for each patch.
double patched_in_full(const LanguageModel& model, const PromptPair& pair, const std::string& point,
                       int64_t token, bool noising) {
  const std::vector<int64_t>& run = noising ? pair.clean : pair.corrupt;
  const std::vector<int64_t>& other = noising ? pair.corrupt : pair.clean;
  Points source;
  source.watch(point, {.positions = {token}});
  Tape tape(model.device(), false);
  model.forward(tape, pack(model, {other}), nullptr, &source);
  Points patch;
  patch.edit({point, EditOp::set, source.value(point), {.positions = {token}}});
  const Var logits = model.forward(tape, pack(model, {run}), nullptr, &patch);
  return logit_differences(last_logits(model, logits.value()), {pair.answer}).front();
}

TEST(Patching, RestartedRunsAreWhatWholePassesAre) {
  Device device("ref");
  for (const MixerKind mixer : {MixerKind::mamba, MixerKind::mamba2}) {
    const LanguageModel model = some_model(device, 2, mixer);
    const std::vector<PromptPair> pairs = pairs_of({4, 6});
    for (const char* name : {"resid_pre", "mixer.out", "mixer.h", "mixer.readout_h", "mixer.dt"}) {
      for (const bool noising : {false, true}) {
        PatchingOptions options = {.point = name, .noising = noising, .batch_tokens = 9};
        const PatchingMap map = patch_layers_and_tokens(model, pairs, options);
        ASSERT_EQ(map.columns, 6);
        for (int64_t layer = 0; layer < 2; ++layer) {
          const std::string point = fmt::format("layers.{}.{}", layer, name);
          for (int64_t column = 0; column < 6; ++column) {
            double expected = patched_in_full(model, pairs[1], point, column, noising);
            if (column >= 2) {
              expected += patched_in_full(model, pairs[0], point, column - 2, noising);
              expected /= 2;
            }
            EXPECT_NEAR(map.logit_difference[size_t(layer * 6 + column)], expected, 1e-12)
                << point << " at " << column;
          }
        }
      }
    }
  }
}

TEST(Patching, RunsWhatAPatchChangesAlone) {
  Device device("ref");
  const LanguageModel model = some_model(device, 12, MixerKind::mamba);
  const PatchingMap map = patch_layers_and_tokens(model, pairs_of({16, 16}));
  EXPECT_EQ(map.naive_layer_tokens, 2 * 12 * 16 * 12 * 16);
  EXPECT_LE(map.layer_tokens * 10, map.naive_layer_tokens * 3);
}

TEST(Patching, OfTheWholeStreamGivesTheOtherRun) {
  Device device("ref");
  const LanguageModel model = some_model(device, 2, MixerKind::mamba);
  PromptPair pair = pairs_of({3}).front();
  pair.corrupt = pair.clean;
  pair.corrupt.back() = (pair.clean.back() + 1) % 8;
  const PatchingMap map = patch_layers_and_tokens(model, {pair});
  EXPECT_NEAR(map.score[2], 1, 1e-9);  // all that differs enters at the last token
  EXPECT_NEAR(map.score[0], 0, 1e-9);
  EXPECT_NEAR(map.logit_difference[2], map.clean, 1e-12);
}

// A pair shorter than others is normalised in the columns it has alone with those that have them.
TEST(Patching, ColumnsAreNormalisedByThePairsThatHaveThem) {
  Device device("ref");
  const LanguageModel model = some_model(device, 2, MixerKind::mamba);
  const std::vector<PromptPair> pairs = pairs_of({6, 4});
  const PatchingMap both = patch_layers_and_tokens(model, pairs);
  const PatchingMap longer = patch_layers_and_tokens(model, {pairs[0]});
  for (const size_t cell : {0, 1, 6, 7}) EXPECT_NEAR(both.score[cell], longer.score[cell], 1e-9);
  EXPECT_GT(std::abs(both.clean - longer.clean), 1e-6);
}

// States kept pair by pair, or all at once.
TEST(Patching, GroupsOfPairsChangeNothing) {
  Device device("ref");
  const LanguageModel model = some_model(device, 2, MixerKind::mamba);
  PatchingOptions small;
  small.state_bytes = 1;
  int64_t calls = 0;
  small.progress = [&](int64_t done, int64_t total) {
    EXPECT_LE(done, total);
    ++calls;
  };
  const PatchingMap apart = patch_layers_and_tokens(model, pairs_of({4, 5, 4}), small);
  const PatchingMap together = patch_layers_and_tokens(model, pairs_of({4, 5, 4}));
  EXPECT_EQ(calls, 6);
  for (size_t i = 0; i < apart.score.size(); ++i) {
    EXPECT_NEAR(apart.score[i], together.score[i], 1e-9);
  }
}

TEST(Patching, RefusesWhatHasNoTokens) {
  Device device("ref");
  const LanguageModel model = some_model(device, 2, MixerKind::mamba);
  EXPECT_THROW(patch_layers_and_tokens(model, {}), Error);
  EXPECT_THROW(patch_layers_and_tokens(model, pairs_of({4}), {.point = "mixer.h_start"}), Error);
  EXPECT_THROW(patch_layers_and_tokens(model, pairs_of({4}), {.point = "nothing"}), Error);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/edit_plan.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "elapse/core/random.h"
#include "tests/interpret/planted.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

const std::vector<Prompt> kPrompts = {
    {{1, 2, 3}, {{{"S", 1}}, ""}}, {{4, 5, 6, 7}, {{{"S", 2}}, ""}}, {{6, 7, 0}, {{{"S", 0}}, ""}}};
const std::vector<Prompt> kReference = {{{0, 1, 2}}, {{3, 3, 4}}, {{5, 1, 7, 2}}, {{2, 2, 2}}};

class EditPlans : public testing::TestWithParam<MixerKind> {
 protected:
  EditPlans() : device_("ref"), model_(device_, config(), DType::f64, 5) {}

  static ModelConfig config() {
    ModelConfig config = GetParam() == MixerKind::mamba ? ModelConfig::mamba(20, 3, 8)
                                                        : ModelConfig::mamba2(20, 3, 8);
    config.d_state = 4;
    return config;
  }

  EditPlan plan(const std::string& json, const std::vector<Prompt>& reference = kReference) const {
    return {model_, parse_edits(json, "edits"), kPrompts, reference};
  }
  LastLogits edited(const std::string& json) const { return edited_logits(model_, plan(json)); }
  // Of the one prompt with edits made by hand.
  LastLogits by_hand(size_t prompt, std::vector<Edit> edits) {
    Points points;
    for (Edit& edit : edits) points.edit(std::move(edit));
    Tape tape(device_, false);
    const Batch batch = pack(model_, {kPrompts[prompt].tokens});
    return last_logits(model_, model_.forward(tape, batch, nullptr, &points).value());
  }
  void expect_row(const LastLogits& found, int64_t row, const LastLogits& expected) {
    for (int64_t c = 0; c < found.classes; ++c) {
      EXPECT_NEAR(found(row, c), expected(0, c), 1e-12) << "prompt " << row;
    }
  }
  ActivationCache cached(const std::vector<Prompt>& prompts, const std::string& point) const {
    return cache_activations(model_, tokens_of(prompts), {.points = {point}});
  }
  Tensor number(double value) { return device_.upload(std::vector<double>{value}, {1}); }

  Device device_;
  LanguageModel model_;
};

INSTANTIATE_TEST_SUITE_P(, EditPlans, testing::Values(MixerKind::mamba, MixerKind::mamba2),
                         [](const auto& kind) { return std::string(name_of(kind.param)); });

TEST_P(EditPlans, ReachThePlacesTheyName) {
  const std::string point = "layers.1.mixer.h";
  const LastLogits found = edited(
      R"([{"point": "layers.1.mixer.h", "op": "add", "value": 3, "positions": ["S", -1],
           "channels": [2, 9], "states": [1, 3], "prompts": [1, 0]}])");
  const auto by_hand_at = [&](size_t prompt, std::vector<int64_t> positions) {
    return by_hand(prompt, {{point,
                             EditOp::add,
                             number(3),
                             {.positions = positions, .channels = {2, 9}, .states = {1, 3}}}});
  };
  expect_row(found, 0, by_hand_at(0, {1, 2}));
  expect_row(found, 1, by_hand_at(1, {2, 3}));
  expect_row(found, 2, by_hand(2, {}));
}

TEST_P(EditPlans, OfOnePatternActInEveryLayer) {
  const LastLogits found = edited(R"([{"point": "blocks.*.hook_out_proj", "op": "zero"}])");
  for (size_t p = 0; p < kPrompts.size(); ++p) {
    std::vector<Edit> edits;
    for (const char* point : {"layers.0.mixer.out", "layers.1.mixer.out", "layers.2.mixer.out"}) {
      edits.push_back({point, EditOp::set, number(0)});
    }
    expect_row(found, static_cast<int64_t>(p), by_hand(p, edits));
  }
}

TEST_P(EditPlans, RunInTheOrderGiven) {
  const LastLogits once = edited(
      R"([{"point": "layers.0.mixer.out", "op": "add", "value": 1},
          {"point": "layers.0.mixer.out", "op": "scale", "value": 2},
          {"point": "layers.0.mixer.out", "op": "add", "value": -2}])");
  const LastLogits twice =
      edited(R"([{"point": "layers.0.mixer.out", "op": "scale", "value": 2}])");
  for (size_t i = 0; i < once.values.size(); ++i) {
    EXPECT_NEAR(once.values[i], twice.values[i], 1e-12);
  }
}

// Of references as long as the prompt: 0, 1 and 3 for a prompt of three tokens.
TEST_P(EditPlans, MeanIsOfEachPositionOverReferences) {
  const std::string point = "layers.1.mixer.h";
  const LastLogits found = edited(
      R"([{"point": "layers.1.mixer.h", "op": "mean", "positions": [1], "states": [1, 3]}])");
  const ActivationCache cache = cached(kReference, point);
  const Tensor& values = cache.at(point);
  const int64_t channels = values.dim(1), states = values.dim(2);
  std::vector<double> mean;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t n = 1; n < 3; ++n) {
      double sum = 0;
      for (const int64_t row : {1, 4, 11}) {
        sum += values.data<double>()[(row * channels + c) * states + n];
      }
      mean.push_back(sum / 3);
    }
  }
  const Tensor source = device_.upload(mean, {1, channels, 2});
  const Edit edit = {point, EditOp::set, source, {.positions = {1}, .states = {1, 3}}};
  expect_row(found, 0, by_hand(0, {edit}));
  expect_row(found, 2, by_hand(2, {edit}));
}

TEST_P(EditPlans, ResampleTakesOneReferenceWhole) {
  const std::string json =
      R"([{"point": "layers.0.mixer.out", "op": "resample", "seed": 3},
          {"point": "layers.0.resid_pre", "op": "resample", "seed": 3}])";
  // Both points of one layer from one prompt: all that the prompt gave later layers.
  const LastLogits found = edited(json);
  Random random(3, 0);
  const int64_t drawn = std::vector<int64_t>{0, 1, 3}[static_cast<size_t>(random.below(3))];
  const LastLogits references =
      last_logits(model_, pack(model_, {kReference[static_cast<size_t>(drawn)].tokens}));
  expect_row(found, 0, references);
  EXPECT_EQ(edited(json).values, found.values);
}

TEST_P(EditPlans, TemplatesKeepToThemselves) {
  std::vector<Prompt> prompts = {kPrompts[0]}, reference = kReference;
  prompts[0].notes.group = "A";
  reference[3].notes.group = "A";
  const std::string point = "layers.0.resid_pre";
  const EditPlan plan(model_, parse_edits(R"([{"point": "layers.0.resid_pre", "op": "mean"}])", ""),
                      prompts, reference);
  expect_row(edited_logits(model_, plan), 0,
             last_logits(model_, pack(model_, {kReference[3].tokens})));
  prompts[0].notes.group = "B";
  expect_error(
      [&] {
        EditPlan(model_, parse_edits(R"([{"point": "embed", "op": "mean"}])", "edits"), prompts,
                 reference);
      },
      "field \"[0]\": \"mean\" of prompt 0: expected reference prompts of 3 tokens and template "
      "\"B\", found none");
}

TEST_P(EditPlans, SwapTakesTheCachedValues) {
  const TemporaryFolder folder;
  std::vector<Prompt> others = {{{7, 7, 1}}, {{0, 1, 0, 1}}, {{2, 4, 6}}};
  save_cache(folder / "cache", cached(others, "layers.*.resid_pre"));
  const std::string swap = R"("op": "swap-from-cache", "cache": ")" + folder / "cache" + "\"}]";
  const LastLogits found = edited("[{\"point\": \"layers.1.resid_pre\", " + swap);
  for (size_t p = 0; p < others.size(); ++p) {
    expect_row(found, static_cast<int64_t>(p),
               last_logits(model_, pack(model_, {others[p].tokens})));
  }
  expect_error([&] { edited("[{\"point\": \"embed\", " + swap); }, "\"embed\" is not in the cache");
  expect_error(
      [&] { edited("[{\"point\": \"layers.1.resid_pre\", \"channels\": [0, 21], " + swap); },
      "more channels or states are selected than the cached values have, (10, 20)");
  // The one prompt of a cache is every prompt's.
  save_cache(folder / "cache", cached({kPrompts[0]}, "layers.*.resid_pre"));
  expect_row(edited("[{\"point\": \"layers.1.resid_pre\", \"prompts\": [2], " + swap), 2,
             last_logits(model_, pack(model_, {kPrompts[0].tokens})));
  expect_error([&] { edited("[{\"point\": \"layers.1.resid_pre\", " + swap); },
               "the cache has no position 3 of prompt 0, which is of 3 tokens");
}

TEST_P(EditPlans, ReachWhatBelongsToPromptsAndToTheModel) {
  const LastLogits found =
      edited(R"([{"point": "layers.1.mixer.h_start", "op": "set", "value": 0.5, "prompts": [2]},
                 {"point": "layers.0.mixer.A", "op": "scale", "value": 2}])");
  const Edit twice = {"layers.0.mixer.A", EditOp::scale, number(2)};
  expect_row(found, 0, by_hand(0, {twice}));
  expect_row(found, 2, by_hand(2, {twice, {"layers.1.mixer.h_start", EditOp::set, number(0.5)}}));
}

TEST_P(EditPlans, AreTheSameHoweverPromptsAreBatched) {
  const EditPlan some = plan(
      R"([{"point": "layers.*.mixer.x", "op": "mean", "positions": [-1]},
          {"point": "layers.1.mixer.out", "op": "resample"}])");
  const LastLogits apart = edited_logits(model_, some, 1), together = edited_logits(model_, some);
  for (size_t i = 0; i < apart.values.size(); ++i) {
    EXPECT_NEAR(apart.values[i], together.values[i], 1e-12);
  }
}

TEST_P(EditPlans, ThatCannotBeCarriedOutSayWhy) {
  const auto fault = [&](const std::string& edit, const std::string& part) {
    expect_error([&] { edited("[{\"point\": " + edit + "}]"); }, part);
  };
  fault(R"("layers.3.mixer.h", "op": "zero")",
        "edits: field \"[0]\": the model has no point \"layers.3.mixer.h\"");
  fault(R"("embed", "op": "zero", "prompts": [3])", "prompt 3 is to be edited, but there are 3");
  fault(R"("embed", "op": "zero", "positions": [3])",
        "position 3 is to be edited, but prompt 0 has 3 tokens");
  fault(R"("embed", "op": "zero", "positions": [-4])", "prompt 0 has 3 tokens");
  fault(R"("embed", "op": "zero", "positions": ["IO"])",
        "prompt 0 has no position labelled \"IO\"");
  fault(R"("embed", "op": "zero", "positions": [2, -1], "prompts": [0])",
        "position 2 is selected twice");
  fault(R"("embed", "op": "set", "value": [1, 2])", "edit of \"embed\": expected a source");
  fault(R"("embed", "op": "zero", "channels": [0, 21])", "channels 0 to 20 are selected");
  fault(R"("layers.0.mixer.A", "op": "zero", "positions": [0])", "none can be selected");
  fault(R"("layers.0.mixer.h_start", "op": "zero", "positions": [0])",
        "is a value of prompts, not of tokens");
  fault(R"("layers.0.mixer.h_start", "op": "mean")", "has no value for each token");
  const int64_t channels = GetParam() == MixerKind::mamba ? 40 : 1;  // a step size for each head
  const std::string ones =
      fmt::format("{}", std::vector<int64_t>(static_cast<size_t>(channels), 1));
  fault(R"("layers.0.mixer.dt", "op": "project-out", "value": )" + ones, "XX");
  expect_error([&] { plan(R"([{"point": "embed", "op": "mean"}])", {}); },
               "\"mean\" needs reference prompts, but there are none");
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/recorded_step.h"

#include <gtest/gtest.h>

#include <cstring>

#include "elapse/model/by_tokens.h"

namespace elapse {
namespace {

constexpr int64_t kVocab = 11, kLayers = 2;

class RecordedStepTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  Tensor forward(State& state, int64_t token) {
    Tape tape(device_, false);
    return model_.forward(tape, {device_.upload_bytes(&token, DType::i64, {1}), seqs_, {}}, &state)
        .value();
  }

  MixerKind kind_ = mixer_named(std::get<0>(GetParam()));
  Device device_{"cpu", 2};
  LanguageModel model_{device_, ModelConfig::of(kind_, 16, kLayers, kVocab),
                       std::get<1>(GetParam()), 3};
  Sequences seqs_ = make_sequences(device_, {1}, {0}, {0});
};

TEST_P(RecordedStepTest, GivesTheBitsOfForward) {
  if (!RecordedStep::serves(model_)) GTEST_SKIP() << "its passes are not recorded";
  State walked = model_.make_state(1), recorded = model_.make_state(1);
  forward(walked, 1);
  forward(recorded, 1);
  RecordedStep step(model_, recorded, seqs_, 4);
  Tensor expected = forward(walked, 4);
  for (const int64_t token : {0, 10, 0, 7, 7, 3}) {
    ASSERT_EQ(
        0, std::memcmp(step.logits().raw(), expected.raw(), static_cast<size_t>(expected.bytes())));
    ASSERT_TRUE(recorded.same_bits(walked));  // positions too
    State moved = std::move(recorded);
    step.step(moved, token);
    recorded = std::move(moved);
    expected = forward(walked, token);
  }
}

TEST_P(RecordedStepTest, CountsAsAPass) {
  if (!RecordedStep::serves(model_)) GTEST_SKIP() << "its passes are not recorded";
  State state = model_.make_state(1);
  RecordedStep step(model_, state, seqs_, 4);
  const PathCounts before = model_.path_counts();
  const int64_t products = device_.calls(Op::linear_forward);
  EXPECT_GT(products, kLayers);
  step.step(state, 5);
  EXPECT_EQ(model_.path_counts().parallel, before.parallel + 1);
  EXPECT_EQ(model_.path_counts().layer_tokens, before.layer_tokens + kLayers);
  EXPECT_EQ(device_.calls(Op::linear_forward), 2 * products);
}

// What a kernel launches of its own comes once, with the kernel.
TEST_P(RecordedStepTest, LaunchesWhatThePassLaunched) {
  if (!RecordedStep::serves(model_)) GTEST_SKIP() << "its passes are not recorded";
  State state = model_.make_state(1);
  const auto all_calls = [&] {
    std::vector<int64_t> calls;
    for (size_t i = 0; i < static_cast<size_t>(Op::count); ++i) {
      calls.push_back(device_.calls(static_cast<Op>(i)));
    }
    return calls;
  };
  const std::vector<int64_t> before = all_calls();
  RecordedStep step(model_, state, seqs_, 4);
  const std::vector<int64_t> recorded = all_calls();
  step.step(state, 5);
  const std::vector<int64_t> again = all_calls();
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(again[i] - recorded[i], recorded[i] - before[i]) << name_of(static_cast<Op>(i));
  }
}

// Attention's memory grows, and WaveNet's ring turns.
TEST_P(RecordedStepTest, ServesWhatIsTheSameAtEveryPosition) {
  const bool differs = kind_ == MixerKind::attention || kind_ == MixerKind::wavenet;
  EXPECT_EQ(RecordedStep::serves(model_), !differs && verify_mode() == VerifyMode::none);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RecordedStepTest,
                         testing::Combine(testing::ValuesIn(mixer_names()),
                                          testing::Values(DType::f32, DType::f64)),
                         [](const auto& test) {
                           return fmt::format("{}_{}", std::get<0>(test.param),
                                              name_of(std::get<1>(test.param)));
                         });

TEST(RecordedStep, DoesNotServeLearnedPositions) {
  Device device("cpu", 1);
  ModelConfig config = ModelConfig::mamba(8, 1, 5);
  config.max_positions = 4;
  const LanguageModel model(device, config, DType::f32, 1);
  EXPECT_FALSE(RecordedStep::serves(model));
}

TEST(Recording, EndsWhereThePassThrows) {
  Device device("cpu", 1);
  EXPECT_THROW(device.record([] { fail("on purpose"); }), Error);
  EXPECT_NO_THROW(device.record([] {}).run());
}

}  // namespace
}  // namespace elapse

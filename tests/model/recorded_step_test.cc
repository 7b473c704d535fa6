// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/recorded_step.h"

#include <gtest/gtest.h>

#include <cstring>

#include "elapse/model/by_tokens.h"
#include "tests/can_open.h"

namespace elapse {
namespace {

constexpr int64_t kVocab = 11, kLayers = 2;

class RecordedStepTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  // A token of each sequence, from slot to slot.
  Tensor forward(State& state, const std::vector<int64_t>& slots,
                 const std::vector<int64_t>& tokens) {
    const std::vector<int64_t> ones(slots.size(), 1);
    Tape tape(device_, false);
    const Batch batch = {device_.upload(tokens, {static_cast<int64_t>(tokens.size())}),
                         make_sequences(device_, ones, slots, slots),
                         {}};
    return model_.forward(tape, batch, &state).value();
  }

  MixerKind kind_ = mixer_named(std::get<0>(GetParam()));
  Device device_{"cpu", 2};
  LanguageModel model_{device_, ModelConfig::of(kind_, 16, kLayers, kVocab),
                       std::get<1>(GetParam()), 3};
};

void expect_same_bits(const Tensor& found, const Tensor& expected) {
  ASSERT_EQ(found.shape(), expected.shape());
  EXPECT_EQ(0, std::memcmp(found.raw(), expected.raw(), static_cast<size_t>(expected.bytes())));
}

TEST_P(RecordedStepTest, GivesTheBitsOfForward) {
  if (!RecordedStep::serves(model_)) GTEST_SKIP() << "its passes are not recorded";
  State walked = model_.make_state(1), recorded = model_.make_state(1);
  forward(walked, {0}, {1});
  forward(recorded, {0}, {1});
  RecordedStep step(model_, {0});
  for (const int64_t token : {4, 0, 10, 0, 7, 7, 3}) {
    const Tensor expected = forward(walked, {0}, {token});
    State moved = std::move(recorded);
    step.step(moved, {&token, 1});
    recorded = std::move(moved);
    expect_same_bits(step.logits(), expected);
    ASSERT_TRUE(recorded.same_bits(walked));  // positions too
  }
}

TEST_P(RecordedStepTest, StepsSequencesThatJoinAndLeave) {
  if (!RecordedStep::serves(model_)) GTEST_SKIP() << "its passes are not recorded";
  State walked = model_.make_state(5), recorded = model_.make_state(5);
  RecordedStep step(model_, {3, 0, Sequences::kNoSlot});
  const auto expect_same = [&](const std::vector<int64_t>& slots, std::vector<int64_t> tokens) {
    for (int i = 0; i < 3; ++i) {
      const Tensor expected = forward(walked, slots, tokens);
      step.step(recorded, tokens);
      expect_same_bits(step.logits(), expected);
      ASSERT_TRUE(recorded.same_bits(walked));
      tokens[0] = (tokens[0] + 3) % kVocab;
    }
  };
  expect_same({3, 0, Sequences::kNoSlot}, {1, 2, 0});
  step.move_to({0, 4, 1});
  expect_same({0, 4, 1}, {5, 6, 7});
  step.move_to({0, 4, 1});
  expect_same({0, 4, 1}, {5, 1, 8});
}

TEST_P(RecordedStepTest, RefusesWhatDoesNotFit) {
  State state = model_.make_state(2);
  RecordedStep step(model_, {1, 0});
  const std::vector<int64_t> tokens = {1, 2, 3};
  EXPECT_THROW(step.step(state, tokens), Error);
  EXPECT_THROW(step.move_to({1}), Error);
  EXPECT_THROW(step.move_to({1, 1}), Error);
  step.move_to({1, 2});
  EXPECT_THROW(step.step(state, {tokens.data(), 2}), Error);
  step.move_to({1, 0});
  for (const int64_t wrong : {int64_t{-1}, model_.config().vocab()}) {
    EXPECT_THROW(step.step(state, std::vector<int64_t>{0, wrong}), Error);
  }
  EXPECT_EQ(state.position(1), 0);
}

TEST_P(RecordedStepTest, CountsAsAPass) {
  if (!RecordedStep::serves(model_)) GTEST_SKIP() << "its passes are not recorded";
  State state = model_.make_state(2);
  RecordedStep step(model_, {1, 0});
  const std::vector<int64_t> tokens = {4, 5};
  step.step(state, tokens);
  const PathCounts before = model_.path_counts();
  const int64_t products = device_.calls(Op::linear_forward);
  EXPECT_GT(products, kLayers);
  step.step(state, tokens);
  EXPECT_EQ(model_.path_counts().parallel, before.parallel + 1);
  EXPECT_EQ(model_.path_counts().layer_tokens, before.layer_tokens + 2 * kLayers);
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
  RecordedStep step(model_, {0});
  const int64_t token = 4;
  step.step(state, {&token, 1});
  const std::vector<int64_t> recorded = all_calls();
  step.step(state, {&token, 1});
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

// A graph from the second step on, of few sequences and of many.
TEST(RecordedStepOnCuda, GivesTheBitsOfForward) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device device("cuda");
  const auto bits_of = [&](const Tensor& logits) {
    std::vector<float> bits(static_cast<size_t>(logits.numel()));
    device.download_bytes(logits, bits.data());
    return bits;
  };
  std::vector<std::pair<MixerKind, DType>> kinds;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const std::string& name : mixer_names()) kinds.push_back({mixer_named(name), dtype});
  }
  for (const auto& [mixer, dtype] : kinds) {
    const LanguageModel model(device, ModelConfig::of(mixer, 64, kLayers, kVocab), dtype, 3);
    if (!RecordedStep::serves(model)) continue;
    for (const int64_t count : {1, 3, 8, 33, 70, 300}) {
      SCOPED_TRACE(::testing::Message()
                   << count << " sequences of " << name_of(mixer) << " in " << name_of(dtype));
      State walked = model.make_state(count + 1), recorded = model.make_state(count + 1);
      std::vector<int64_t> slots, tokens;
      for (int64_t s = 0; s < count; ++s) {
        slots.push_back(count - s);
        tokens.push_back(s % kVocab);
      }
      RecordedStep step(model, slots);
      for (int i = 0; i < 8; ++i) {
        if (i == 4) {  // one leaves, one begins in its place
          slots.front() = 0;
          if (count > 1) slots.back() = Sequences::kNoSlot;
          step.move_to(slots);
        }
        const Batch batch = {
            device.upload(tokens, {count}),
            make_sequences(device, std::vector<int64_t>(slots.size(), 1), slots, slots),
            {}};
        Tape tape(device, false);
        const std::vector<float> expected = bits_of(model.forward(tape, batch, &walked).value());
        const int64_t before = device.calls(Op::linear_forward);
        step.step(recorded, tokens);
        if (i > 1) {
          EXPECT_EQ(device.calls(Op::linear_forward), before);
        }
        EXPECT_EQ(bits_of(step.logits()), expected);
        EXPECT_EQ(recorded.position(slots.front()), walked.position(slots.front()));
        for (int64_t& token : tokens) token = (3 * token + 1) % kVocab;
      }
    }
  }
}

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

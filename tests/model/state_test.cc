// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "elapse/core/random.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/language_model.h"
#include "elapse/model/state_file.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

ModelConfig tiny_config() {
  ModelConfig config = ModelConfig::mamba(24, 2, 13);
  config.d_state = 6;
  return config;
}

class StateTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("elapse-state-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<int64_t> text(int64_t length, uint64_t seed = 1) {
    Random random(seed);
    std::vector<int64_t> tokens(static_cast<size_t>(length));
    for (int64_t& t : tokens) t = random.below(13);
    return tokens;
  }

  // Feeds tokens to a slot and returns their logits.
  std::vector<float> feed(State& state, const std::vector<int64_t>& tokens, int64_t slot = 0) {
    Tape tape(device_, false);
    const auto count = static_cast<int64_t>(tokens.size());
    const Batch batch = {
        device_.upload(tokens, {count}), make_sequences(device_, {count}, {slot}, {slot}), {}};
    const Var logits = model_.forward(tape, batch, &state);
    std::vector<float> out(static_cast<size_t>(logits.value().numel()));
    device_.download_bytes(logits.value(), out.data());
    return out;
  }

  std::string path(const char* name) { return (folder_ / name).string(); }

  Device device_{"cpu", 2};
  LanguageModel model_{device_, tiny_config(), DType::f32, 3};
  fs::path folder_;
};

TEST_F(StateTest, HasTheSameSizeWhateverItHasSeen) {
  State state = model_.make_state(1);
  const int64_t bytes = state.bytes_per_slot();
  // Per layer h (d_inner x d_state) and d_conv - 1 columns of x.
  EXPECT_EQ(bytes, 2 * (48 * 6 + 3 * 48) * 4);
  feed(state, text(1000));
  EXPECT_EQ(state.bytes_per_slot(), bytes);
  EXPECT_EQ(state.position(), 1000);
}

TEST_F(StateTest, TheSameCallsGiveTheSameBitsThroughForkSaveAndLoad) {
  State plain = model_.make_state(1);
  State other = model_.make_state(1);
  for (int64_t length : {5, 1, 1, 17, 1}) {
    const auto tokens = text(length, static_cast<uint64_t>(length));
    EXPECT_EQ(feed(plain, tokens), feed(other, tokens));
    EXPECT_TRUE(plain.same_bits(other));
    save_state(path("s"), model_, other);
    other = load_state(path("s"), model_).fork();
    EXPECT_TRUE(plain.same_bits(other));
  }
}

TEST_F(StateTest, AForkGoesItsOwnWay) {
  State state = model_.make_state(1);
  feed(state, text(9));
  State fork = state.fork();
  const State before = state.fork();
  feed(fork, text(3, 8));
  EXPECT_TRUE(state.same_bits(before));
  EXPECT_FALSE(fork.same_bits(before));
  EXPECT_EQ(fork.position(), 12);
  EXPECT_EQ(feed(state, text(3, 8)).size(), 3U * 13);
  EXPECT_TRUE(state.same_bits(fork));
}

TEST_F(StateTest, ASlotCanBeForkedManyTimes) {
  State state = model_.make_state(2);
  feed(state, text(4, 5), 1);
  const State many = state.fork({1, 1, 0});
  EXPECT_EQ(many.slots(), 3);
  EXPECT_EQ(many.position(0), 4);
  EXPECT_EQ(many.position(2), 0);
  EXPECT_THROW(state.fork({2}), Error);
}

TEST_F(StateTest, OtherCuttingsAgreeWithinRounding) {
  const auto tokens = text(40);
  State whole = model_.make_state(1);
  const std::vector<float> expected = feed(whole, tokens);
  float largest = 0;
  for (float v : expected) largest = std::max(largest, std::abs(v));
  // Every value is a sum of at most d_inner terms a layer, each rounded in both cuttings.
  const double tolerance = 2 * 48 * std::numeric_limits<float>::epsilon() * largest;
  for (size_t cut : {1U, 2U, 15U, 16U, 17U, 39U}) {
    State state = model_.make_state(1);
    auto logits = feed(state, {tokens.begin(), tokens.begin() + static_cast<int64_t>(cut)});
    const auto rest = feed(state, {tokens.begin() + static_cast<int64_t>(cut), tokens.end()});
    logits.insert(logits.end(), rest.begin(), rest.end());
    for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], tolerance);
  }
}

TEST_F(StateTest, PackedSequencesAreAsAlone) {
  State state = model_.make_state(3);
  const auto a = text(6, 1), b = text(9, 2);
  std::vector<int64_t> packed = a;
  packed.insert(packed.end(), b.begin(), b.end());
  Tape tape(device_, false);
  const Batch batch = {
      device_.upload(packed, {15}), make_sequences(device_, {6, 0, 9}, {-1, 1, -1}, {2, 1, 0}), {}};
  model_.forward(tape, batch, &state);
  State alone = model_.make_state(1);
  feed(alone, b);
  EXPECT_TRUE(state.fork({0}).same_bits(alone));
  EXPECT_EQ(state.position(2), 6);
}

TEST_F(StateTest, RefusesAnotherModelsFile) {
  const LanguageModel other(device_, tiny_config(), DType::f32, 4);
  save_state(path("s"), model_, model_.make_state(1));
  try {
    load_state(path("s"), other);
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("belongs to another model"), std::string::npos);
  }
}

TEST_F(StateTest, RefusesEveryTruncation) {
  save_state(path("s"), model_, model_.make_state(1));
  const auto size = static_cast<int64_t>(fs::file_size(path("s")));
  for (int64_t keep = 0; keep < size; keep += 97) {
    fs::copy_file(path("s"), path("t"), fs::copy_options::overwrite_existing);
    fs::resize_file(path("t"), static_cast<uintmax_t>(keep));
    EXPECT_THROW(load_state(path("t"), model_), Error) << keep;
  }
}

TEST_F(StateTest, ASummaryNeedsPositionsThatCanBe) {
  const auto summary = [&](const std::vector<NamedTensor>& tensors) {
    write_safetensors(path("s"), tensors, {{"elapse.model", "a fingerprint"}});
    return summarize_state(open_weight_file(path("s")).files.front());
  };
  std::vector<int64_t> sound = {0, 7}, below = {3, -1};
  const Tensor good = Tensor::wrap(sound.data(), DType::i64, {2});
  const Tensor bad = Tensor::wrap(below.data(), DType::i64, {2});
  EXPECT_EQ(summary({{"positions", good}})->positions, sound);
  expect_error([&] { summary({{"other", good}}); }, "expected a tensor \"positions\"");
  expect_error(
      [&] {
        summary({{"positions", bad}});
      },
      "tensor \"positions\": expected 0 to 1152921504606846976, found -1");
}

TEST_F(StateTest, RefusesSlotsItDoesNotHave) {
  State state = model_.make_state(1);
  EXPECT_THROW(feed(state, text(2), 1), Error);
}

TEST(Sequences, RefuseSlotsThatWouldRace) {
  Device device("ref");
  EXPECT_THROW(make_sequences(device, {1, 1}, {-1, -1}, {0, 0}), Error);
  EXPECT_THROW(make_sequences(device, {1, 1}, {1, -1}, {0, 1}), Error);
  EXPECT_THROW(make_sequences(device, {-1}), Error);
  EXPECT_THROW(make_sequences(device, {1}, {-2}, {0}), Error);
  EXPECT_NO_THROW(make_sequences(device, {1, 1}, {5, 5}, {0, 1}));
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// States that grow: of models with attention.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "elapse/core/random.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/language_model.h"
#include "elapse/model/state_file.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kVocab = 13;

ModelConfig tiny_config(int64_t window) {
  ModelConfig config = ModelConfig::of(MixerKind::attention, 24, 2, kVocab);
  config.head_dim = 6;
  config.n_kv_heads = 2;
  config.window = window;
  return config;
}

class AttentionState : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("elapse-attention-state-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::vector<int64_t> text(int64_t length, uint64_t seed) {
    Random random(seed);
    std::vector<int64_t> tokens(static_cast<size_t>(length));
    for (int64_t& t : tokens) t = random.below(kVocab);
    return tokens;
  }

  // Feeds tokens to a slot and returns their logits.
  std::vector<float> feed(State& state, const std::vector<int64_t>& tokens, int64_t slot = 0) {
    Tape tape(device_, false);
    const auto count = std::ssize(tokens);
    const Batch batch = {
        device_.upload(tokens, {count}), make_sequences(device_, {count}, {slot}, {slot}), {}};
    const Var logits = model_.forward(tape, batch, &state);
    std::vector<float> out(static_cast<size_t>(logits.value().numel()));
    device_.download_bytes(logits.value(), out.data());
    return out;
  }

  std::string path(const char* name) { return (folder_ / name).string(); }

  // The state's file, with another tensor under this name (none: left out).
  void rewrite(const std::string& name, const Tensor& with) {
    const SafeTensors file = open_safetensors(path("s"));
    std::vector<NamedTensor> tensors;
    for (const char* one :
         {"layers.0.keys", "layers.0.values", "layers.1.keys", "layers.1.values", "positions"}) {
      if (name != one) tensors.push_back({one, file.at(one)});
      else if (with) tensors.push_back({one, with});
    }
    write_safetensors(path("t"), tensors, file.metadata());
  }

  Device device_{"cpu", 2};
  LanguageModel model_{device_, tiny_config(GetParam()), DType::f32, 3};
  fs::path folder_;
};

INSTANTIATE_TEST_SUITE_P(Windows, AttentionState, testing::Values(0, 1, 50, 70));

TEST_P(AttentionState, TheSameCallsGiveTheSameBitsThroughForkSaveAndLoad) {
  State plain = model_.make_state(1), other = model_.make_state(1);
  for (const int64_t length : {5, 1, 1, 100, 1, 64, 1}) {
    const auto tokens = text(length, static_cast<uint64_t>(length));
    EXPECT_EQ(feed(plain, tokens), feed(other, tokens));
    EXPECT_TRUE(plain.same_bits(other));
    save_state(path("s"), model_, other);
    other = load_state(path("s"), model_).fork();
    EXPECT_TRUE(plain.same_bits(other));
    EXPECT_EQ(other.bytes(0), plain.bytes(0));
  }
}

TEST_P(AttentionState, AForkGoesItsOwnWay) {
  State state = model_.make_state(2);
  feed(state, text(70, 1), 1);
  State many = state.fork({1, 0, 1});
  const State before = state.fork();
  feed(many, text(3, 8), 0);
  EXPECT_TRUE(state.same_bits(before));
  EXPECT_TRUE(many.fork({2}).same_bits(state.fork({1})));
  feed(state, text(3, 8), 1);
  EXPECT_TRUE(many.fork({0}).same_bits(state.fork({1})));
}

TEST_P(AttentionState, GrowsByPagesUpToTheWindow) {
  const int64_t window = GetParam(), page = 2 * 64 * 2 * 6 * 4;  // of both layers, each 2 x
  State state = model_.make_state(1);
  EXPECT_EQ(state.bytes_per_slot(), 0);
  EXPECT_EQ(state.bytes_per_token(), window == 0 ? 2 * page / 64 : 0);
  for (const int64_t length : {1, 63, 1, 300}) feed(state, text(length, 2));
  const int64_t pages = window == 0 ? 6 : window <= 46 ? 1 : 2;
  EXPECT_EQ(state.bytes(0), 2 * page * pages);  // 365 tokens: 45 on the last page
}

TEST_P(AttentionState, RefusesAFileThatIsNotWhole) {
  State state = model_.make_state(2);
  feed(state, text(30, 1), 1);
  save_state(path("s"), model_, state);
  const int64_t rows = GetParam() == 0 ? 30 : std::min<int64_t>(30, GetParam() - 1);
  const auto floats = [&](Shape shape) { return device_.zeros(DType::f32, shape); };
  const auto refuses = [&](const std::string& name, const Tensor& with, const char* sentence) {
    rewrite(name, with);
    expect_error([&] { load_state(path("t"), model_); }, sentence);
  };
  refuses("layers.1.values", Tensor(), "layers.1.values");
  refuses("layers.0.keys", floats({rows + 1, 12}), "layers.0.keys");
  refuses("layers.0.keys", floats({rows, 11}), "layers.0.keys");
  refuses("layers.1.keys", device_.zeros(DType::f64, {rows, 12}), "layers.1.keys");
  std::vector<int64_t> far(64, int64_t{1} << 60), negative = {0, -1};
  refuses("positions", Tensor::wrap(negative.data(), DType::i64, {2}), "positions");
  if (GetParam() == 1) return;  // which remembers nothing wherever it stands
  refuses("positions", Tensor::wrap(far.data(), DType::i64, {64}), "layers.0.keys");
}

TEST_P(AttentionState, RefusesToSaveWhatDoesNotBelongTogether) {
  State state = model_.make_state(1);
  feed(state, text(3, 1));
  state.set_position(0, 4);
  expect_error([&] { save_state(path("s"), model_, state); },
               "layer 0 remembers 3 tokens of slot 0, which has taken 4");
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/generate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/generate/tiny_model.h"

namespace elapse {
namespace {

class Generate : public testing::TestWithParam<Kind> {
 protected:
  // A model that likes the classes that only pad best.
  Generate() {
    const Tensor head = model_.parameters().find("lm_head.weight")->var.value();
    fill(device_, {head.rows(tiny_config().vocab_size, tiny_config().vocab()), 50});
    const Tensor norm = model_.parameters().find("backbone.norm_f.weight")->var.value();
    fill(device_, {norm, 10});
  }

  static ModelConfig untied_config() {
    ModelConfig config = tiny_config();
    config.tied_head = false;
    return config;
  }

  Session read(const std::vector<int64_t>& tokens) const {
    Session session(model_);
    session.prefill(tokens);
    return session;
  }

  static std::vector<int64_t> all_tokens(Session& session, const SamplerOptions& options,
                                         int64_t count) {
    std::vector<int64_t> tokens;
    EXPECT_EQ(generate(session, Sampler(options), count,
                       [&](int64_t token) {
                         tokens.push_back(token);
                         return true;
                       }),
              count);
    return tokens;
  }

  // The likeliest class after `tokens`, from a pass over all of them.
  int64_t likeliest_after(const std::vector<int64_t>& tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    Tape tape(device_, false);
    const Batch batch = {device_.upload(tokens, {count}), make_sequences(device_, {count}), {}};
    const Tensor logits = model_.forward(tape, batch).value();
    const Tensor wide = device_.empty(DType::f64, {1, logits.dim(1)});
    copy(device_, {logits.rows(count - 1, count), wide});
    std::vector<double> last(static_cast<size_t>(wide.numel()));
    device_.download_bytes(wide, last.data());
    return std::max_element(last.begin(), last.begin() + tiny_config().vocab_size) - last.begin();
  }

  Device device_{GetParam().device, 2};
  LanguageModel model_{device_, untied_config(), GetParam().dtype, 3};
};

TEST_P(Generate, GreedyIsTheArgmaxOfAPassOverTheWhole) {
  std::vector<int64_t> tokens = random_tokens(9);
  Session session = read(tokens);
  for (int64_t token : all_tokens(session, {.temperature = 0}, 25)) {
    ASSERT_EQ(token, likeliest_after(tokens));
    tokens.push_back(token);
  }
}

TEST_P(Generate, NeverSamplesAClassThatOnlyPads) {
  Session session = read(random_tokens(9));
  for (int64_t token : all_tokens(session, {.temperature = 50, .seed = 9}, 300)) {
    ASSERT_LT(token, tiny_config().vocab_size);
  }
}

TEST_P(Generate, TheSessionHasReadWhatWasHandedOver) {
  std::vector<int64_t> tokens = random_tokens(9);
  Session session = read(tokens);
  int64_t taken = 0;
  const int64_t count = generate(session, Sampler({.seed = 1}), 100, [&](int64_t token) {
    tokens.push_back(token);
    return ++taken < 6;
  });
  EXPECT_EQ(count, 6);
  EXPECT_EQ(session.position(), 15);
  Session again = read({tokens.begin(), tokens.begin() + 9});
  for (size_t t = 9; t < tokens.size(); ++t) again.step(tokens[t]);
  EXPECT_TRUE(session.same_bits(again));
}

TEST_P(Generate, NothingIsAskedForNothing) {
  Session session(model_);
  const auto never = [](int64_t) { return ADD_FAILURE(), false; };
  EXPECT_EQ(generate(session, Sampler(), 0, never), 0);
  EXPECT_THROW(generate(session, Sampler(), 1, never), Error);
}

TEST_P(Generate, SeedsAndForksDecideTheText) {
  const Session start = read(random_tokens(9));
  const auto text = [&](uint64_t seed) {
    Session session = start.fork();
    return all_tokens(session, {.seed = seed}, 40);
  };
  EXPECT_EQ(text(1), text(1));
  EXPECT_NE(text(1), text(2));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Generate, testing::ValuesIn(every_kind()), KindName());

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/can_open.h"
#include "tests/generate/tiny_model.h"

namespace elapse {
namespace {

class SessionTest : public testing::TestWithParam<Kind> {
 protected:
  Session read(const std::vector<int64_t>& tokens) const {
    Session session(model_);
    session.prefill(tokens);
    return session;
  }

  // Logits of every token, (tokens, padded vocabulary), in one pass.
  std::vector<double> whole_pass(const std::vector<int64_t>& tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    Tape tape(device_, false);
    const Batch batch = {device_.upload(tokens, {count}), make_sequences(device_, {count}), {}};
    const Tensor logits = model_.forward(tape, batch).value();
    const Tensor wide = device_.empty(DType::f64, logits.shape());
    copy(device_, {logits, wide});
    std::vector<double> values(static_cast<size_t>(wide.numel()));
    device_.download_bytes(wide, values.data());
    return values;
  }

  // Every addend of every sum rounds once, in each layer and over the tokens, relative to values
  // of about one.
  double tolerance(int64_t tokens) const {
    const double epsilon = model_.dtype() == DType::f64 ? std::numeric_limits<double>::epsilon()
                                                        : std::numeric_limits<float>::epsilon();
    const ModelConfig& c = model_.config();
    return epsilon * static_cast<double>(c.n_layers * (c.d_inner + c.d_model) + tokens);
  }

  void expect_logits(const Session& session, const std::vector<double>& whole, int64_t token,
                     double tolerance) const {
    const int64_t classes = model_.config().vocab_size;
    ASSERT_EQ(session.logits().size(), static_cast<size_t>(classes));
    for (int64_t c = 0; c < classes; ++c) {
      ASSERT_NEAR(session.logits()[static_cast<size_t>(c)],
                  whole[static_cast<size_t>(token * model_.config().vocab() + c)], tolerance)
          << "token " << token << " class " << c;
    }
  }

  Device device_{GetParam().device, 2};
  LanguageModel model_{device_, tiny_config(), GetParam().dtype, 3};
};

TEST_P(SessionTest, StepsAgreeWithOnePassOverTheWhole) {
  const auto tokens = random_tokens(40);
  const auto whole = whole_pass(tokens);
  Session session(model_);
  for (int64_t t = 0; t < 40; ++t) {
    EXPECT_EQ(session.position(), t);
    session.step(tokens[static_cast<size_t>(t)]);
    expect_logits(session, whole, t, tolerance(t + 1));
  }
}

TEST_P(SessionTest, AnyCuttingAgreesWithOnePassOverTheWhole) {
  constexpr int64_t kChunk = Session::kPrefillChunk;
  for (int64_t length : {int64_t{1}, int64_t{2}, kChunk + 1}) {
    const auto tokens = random_tokens(length);
    const auto whole = whole_pass(tokens);
    for (int64_t first : {int64_t{0}, int64_t{1}}) {
      Session session(model_);
      session.prefill(std::span(tokens).first(static_cast<size_t>(first)));
      session.prefill(std::span(tokens).subspan(static_cast<size_t>(first)));
      EXPECT_EQ(session.position(), length);
      expect_logits(session, whole, length - 1, tolerance(length));
    }
  }
}

TEST_P(SessionTest, TheSameCallsGiveTheSameBitsWithForksBetween) {
  const auto tokens = random_tokens(30);
  Session plain = read({tokens.begin(), tokens.begin() + 10});
  Session forked = read({tokens.begin(), tokens.begin() + 10}).fork();
  for (size_t t = 10; t < 30; ++t) {
    plain.step(tokens[t]);
    forked.step(tokens[t]);
    forked = forked.fork();
    ASSERT_TRUE(plain.same_bits(forked)) << t;
  }
  EXPECT_EQ(forked.position(), 30);
}

TEST_P(SessionTest, ForksGoTheirOwnWays) {
  const auto tokens = random_tokens(20);
  const Session before = read(tokens);
  Session left = before.fork();
  Session right = before.fork();
  left.prefill(random_tokens(9, 2));
  EXPECT_TRUE(right.same_bits(before));
  EXPECT_FALSE(left.same_bits(before));
  right.prefill(random_tokens(9, 2));
  EXPECT_TRUE(right.same_bits(left));
  EXPECT_TRUE(before.same_bits(read(tokens)));
}

TEST_P(SessionTest, MemoryDoesNotGrowWithPosition) {
  Session session(model_);
  const auto bytes_after = [&](int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) session.step(i % tiny_config().vocab_size);
    return std::pair(device_.pool().bytes_in_use(), device_.pool().bytes_held());
  };
  const auto early = bytes_after(10);
  EXPECT_EQ(bytes_after(990), early);
  const int64_t bytes = session.state_bytes();
  session.prefill(random_tokens(Session::kPrefillChunk));
  const int64_t held = device_.pool().bytes_held();
  session.prefill(random_tokens(2 * Session::kPrefillChunk));
  EXPECT_EQ(device_.pool().bytes_held(), held);
  EXPECT_EQ(session.state_bytes(), bytes);
}

TEST_P(SessionTest, RefusesTokensOfNoClass) {
  Session session = read(random_tokens(5));
  const Session before = session.fork();
  for (int64_t token : {int64_t{-1}, int64_t{13}, int64_t{15}, int64_t{16}, INT64_MAX}) {
    EXPECT_THROW(session.step(token), Error) << token;
    EXPECT_THROW(session.prefill({{1, 2, token}}), Error) << token;
  }
  EXPECT_TRUE(session.same_bits(before));
}

TEST_P(SessionTest, HasNoLogitsBeforeTheFirstToken) {
  Session session(model_);
  EXPECT_THROW(session.logits(), Error);
  session.prefill({});
  EXPECT_THROW(session.logits(), Error);
  session.step(0);
  const std::vector<double> before(session.logits().begin(), session.logits().end());
  session.prefill({});
  EXPECT_TRUE(std::equal(before.begin(), before.end(), session.logits().begin()));
  EXPECT_EQ(session.position(), 1);
}

TEST_P(SessionTest, WatchingChangesNoBitAndSeesTheLastPass) {
  const auto tokens = random_tokens(12);
  Points points;
  points.watch("layers.1.mixer.h");
  points.watch("logits");
  Session watched(model_, &points);
  Session plain(model_);
  watched.prefill(tokens);
  plain.prefill(tokens);
  EXPECT_TRUE(watched.same_bits(plain));
  Session fork = watched.fork();
  fork.step(4);
  plain.step(4);
  EXPECT_TRUE(fork.same_bits(plain));
  EXPECT_EQ(points.value("layers.1.mixer.h").shape(), (Shape{1, 48, 6}));
  EXPECT_EQ(points.value("logits").shape(), (Shape{1, 16}));
}

TEST_P(SessionTest, EditsWorkWhileDecoding) {
  const auto tokens = random_tokens(12);
  Points points;
  const Tensor two = device_.empty(model_.dtype(), {1});
  fill(device_, {two, 2});
  points.edit({"logits", EditOp::scale, two});
  Session edited(model_, &points);
  Session plain(model_);
  edited.prefill(tokens);
  plain.prefill(tokens);
  for (int64_t token : {3, 1, 4}) {
    for (size_t c = 0; c < plain.logits().size(); ++c) {
      EXPECT_EQ(edited.logits()[c], 2 * plain.logits()[c]);
    }
    edited.step(token);
    plain.step(token);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SessionTest, testing::ValuesIn(every_kind()), KindName());

// Steps that are replayed, with what may come between them, beside passes that are not.
TEST(SessionOnCuda, RepeatedStepsHaveTheBitsOfTheFirst) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device device("cuda");
  std::vector<std::pair<ModelConfig, DType>> kinds;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    kinds.push_back({tiny_config(), dtype});
    for (const std::string& name : mixer_names()) {
      kinds.push_back({ModelConfig::of(mixer_named(name), 24, 2, 16), dtype});
    }
  }
  for (const auto& [config, dtype] : kinds) {
    SCOPED_TRACE(::testing::Message() << name_of(config.mixer) << " in " << name_of(dtype));
    const LanguageModel model(device, config, dtype, 3);
    const Sampler drawing({.temperature = 0.8, .top_k = 9, .top_p = 0.9, .seed = 5});
    Session session(model);
    State state = model.make_state(1);
    const auto expect_next = [&](const std::vector<int64_t>& tokens) {
      session.prefill(tokens);
      Tape tape(device, false);
      const auto count = static_cast<int64_t>(tokens.size());
      const Batch batch = {device.upload(tokens, {count}),
                           make_sequences(device, {count}, {0}, {0}),
                           device.upload(std::vector<int64_t>{count - 1}, {1})};
      const Tensor logits = model.forward(tape, batch, &state).value();
      std::vector<float> row(static_cast<size_t>(logits.numel()));
      device.download_bytes(logits, row.data());
      const int64_t chosen =
          session.sample(Sampler({.temperature = 0}));  // while they are on the device
      const int64_t drawn = session.sample(drawing);
      row.resize(session.logits().size());
      EXPECT_EQ(drawn, drawing.sample(session.logits(), session.position()));
      EXPECT_EQ(chosen, std::max_element(row.begin(), row.end()) - row.begin());
      EXPECT_EQ(chosen, session.sample(Sampler({.temperature = 0})));
      EXPECT_TRUE(std::equal(row.begin(), row.end(), session.logits().begin()));
      EXPECT_EQ(session.position(), state.position());
    };
    expect_next({1, 2, 3});
    for (const int64_t token : random_tokens(12)) expect_next({token});
    if (RecordedStep::serves(model)) {  // a graph launches nothing one by one
      const int64_t before = device.calls(Op::linear_forward);
      Session stepped = session.fork();
      for (int i = 0; i < 4; ++i) stepped.step(1);
      const int64_t once_recorded = device.calls(Op::linear_forward);
      EXPECT_GT(once_recorded, before);
      stepped.step(2);
      EXPECT_EQ(device.calls(Op::linear_forward), once_recorded);
    }
    expect_next({4, 5});
    for (const int64_t token : random_tokens(5, 2)) expect_next({token});
    Session moved = std::move(session);
    session = moved.fork();  // and leaves the other as it is
    for (const int64_t token : random_tokens(5, 3)) expect_next({token});
    EXPECT_EQ(moved.position() + 5, session.position());
  }
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "elapse/generate/generate.h"
#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/state_file.h"
#include "tests/generate/tiny_model.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

class SessionFile : public testing::TestWithParam<Kind> {
 protected:
  Session read(int64_t length) const {
    Session session(model_);
    session.prefill(random_tokens(length));
    return session;
  }

  // The file of a session, with one tensor replaced (or, if empty, left out).
  void write_with(const Session& session, const std::string& name, const Tensor& tensor) {
    session.save(path_);
    const SafeTensors file = open_safetensors(path_);
    std::vector<NamedTensor> tensors;
    for (const NamedTensor& t : file.tensors()) {
      if (t.name != name) tensors.push_back(t);
    }
    if (tensor) tensors.push_back({name, tensor});
    write_safetensors(path_, tensors, file.metadata());
  }

  void expect_refused(const std::string& part) {
    expect_error([&] { Session::load(path_, model_); }, part);
    expect_error([&] { Session::load(path_, model_); }, path_);
  }

  TemporaryFolder folder_;
  std::string path_ = folder_ / "state.safetensors";
  Device device_{GetParam().device, 2};
  LanguageModel model_{device_, tiny_config(), GetParam().dtype, 3};
};

TEST_P(SessionFile, TheSameCallsGiveTheSameBitsWithFilesBetween) {
  Session plain = read(10);
  Session saved = read(10);
  for (int64_t token : {3, 1, 4, 1, 5, 9, 2, 6}) {
    saved.save(path_);
    saved = Session::load(path_, model_);
    ASSERT_TRUE(saved.same_bits(plain));
    saved.step(token);
    plain.step(token);
  }
  EXPECT_TRUE(saved.same_bits(plain));
  EXPECT_EQ(saved.position(), 18);
}

TEST_P(SessionFile, ASampledTextGoesOnAsIfNeverStopped) {
  const auto sample = [](Session& session, int64_t count) {
    std::vector<int64_t> tokens;
    generate(session, Sampler({.seed = 5}), count, [&](int64_t token) {
      tokens.push_back(token);
      return true;
    });
    return tokens;
  };
  Session plain = read(7);
  const auto expected = sample(plain, 30);
  Session first = read(7);
  auto found = sample(first, 11);
  first.save(path_);
  Session second = Session::load(path_, model_);
  for (int64_t token : sample(second, 19)) found.push_back(token);
  EXPECT_EQ(found, expected);
  EXPECT_TRUE(second.same_bits(plain));
}

TEST_P(SessionFile, ASessionThatHasReadNothing) {
  Session(model_).save(path_);
  Session loaded = Session::load(path_, model_);
  EXPECT_EQ(loaded.position(), 0);
  EXPECT_THROW(loaded.logits(), Error);
  loaded.prefill(random_tokens(10));
  EXPECT_TRUE(loaded.same_bits(read(10)));
}

TEST_P(SessionFile, OfAnotherModel) {
  read(5).save(path_);
  const LanguageModel other_weights(device_, tiny_config(), GetParam().dtype, 4);
  ModelConfig config = tiny_config();
  config.vocab_size = 14;  // as many rows of the same weights
  const LanguageModel other_config(device_, config, GetParam().dtype, 3);
  for (const LanguageModel* model : {&other_weights, &other_config}) {
    expect_error([&] { Session::load(path_, *model); }, "belongs to another model");
  }
}

TEST_P(SessionFile, EveryTruncationIsRefused) {
  read(5).save(path_);
  const std::string whole = read_text(path_);
  for (size_t size = 0; size < whole.size(); size += size < 2000 ? 13 : 997) {
    std::ofstream(path_, std::ios::binary) << whole.substr(0, size);
    EXPECT_THROW(Session::load(path_, model_), Error) << size;
  }
}

// Such as are made out of others (elapse/interpret/states.h).
TEST_P(SessionFile, AStateWithoutLogitsGoesOnWithTheNextToken) {
  Session session = read(5);
  write_with(session, "logits", {});
  Session loaded = Session::load(path_, model_);
  EXPECT_FALSE(loaded.has_logits());
  expect_error([&] { loaded.logits(); }, "there are no logits");
  session.step(3);
  loaded.step(3);
  EXPECT_TRUE(loaded.same_bits(session));
}

TEST_P(SessionFile, IncompleteOrMisshapen) {
  const Session session = read(5);
  std::vector<double> numbers(64, 0.5);
  std::vector<int64_t> positions = {-1, 5};
  write_with(session, "logits", Tensor::wrap(numbers.data(), DType::f64, {1, 16}));
  expect_refused("tensor \"logits\": expected f64 (1, 13), found f64 (1, 16)");
  write_with(session, "layers.1.h", {});
  expect_refused("layers.1.h");
  write_with(session, "positions", Tensor::wrap(positions.data(), DType::i64, {1}));
  expect_refused("tensor \"positions\": expected 0 to");
  // More slots than the file holds states for.
  positions[0] = 5;
  write_with(session, "positions", Tensor::wrap(positions.data(), DType::i64, {2}));
  expect_refused("tensor \"layers.0.conv\": expected");
  save_state(path_, model_, model_.make_state(2));
  expect_refused("expected the state of one sequence, found 2");
  std::ofstream(path_, std::ios::binary) << "not a state";
  expect_refused("");
  std::filesystem::remove(path_);
  expect_refused("");
}

TEST_P(SessionFile, AFailedSaveLeavesTheOldFile) {
  const Session session = read(5);
  session.save(path_);
  EXPECT_THROW(session.save(folder_ / "missing/state.safetensors"), Error);
  EXPECT_TRUE(Session::load(path_, model_).same_bits(session));
}

INSTANTIATE_TEST_SUITE_P(Kinds, SessionFile, testing::ValuesIn(every_kind()), KindName());

}  // namespace
}  // namespace elapse

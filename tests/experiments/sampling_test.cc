// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/sampling.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "elapse/io/file.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

SamplingSettings tiny() {
  SamplingSettings s;
  s.mixers = {MixerKind::mamba, MixerKind::attention};
  s.d_model = 16;
  s.n_layers = 1;
  s.positions = {16, 64, 256, 1024};
  s.lengths = {8, 16};
  s.seeds = {3, 2};
  return s;
}

TEST(Sampling, tells_the_memory_that_grows_from_the_one_that_does_not) {
  const TemporaryFolder folder;
  Device device("cpu");
  const SamplingSettings settings = tiny();
  const SamplingResult result = run_sampling(device, settings, folder.path(), [](const auto&) {});
  ASSERT_EQ(result.models.size(), 2u);
  for (const auto& model : result.models) {
    ASSERT_EQ(model.costs.size(), 2u);
    const TokenCosts& costs = model.costs.front();
    ASSERT_EQ(costs.sampling.size(), 4u);
    ASSERT_EQ(costs.passes.size(), 2u);
    for (const auto& at : costs.sampling) EXPECT_GT(at.seconds, 0);
    for (const auto& of : costs.passes) EXPECT_GT(of.training, 0);
  }
  const auto bytes = [&](size_t model, size_t at) {
    return result.models[model].costs.front().sampling[at].bytes;
  };
  EXPECT_EQ(bytes(0, 0), bytes(0, 3));
  EXPECT_GE(bytes(1, 3), 8 * bytes(1, 0));
  const std::string summary = sampling_report(settings, result).html();
  EXPECT_NE(summary.find("grows with every token"), std::string::npos);
}

TEST(Sampling, keeps_what_was_measured) {
  const TemporaryFolder folder;
  Device device("cpu");
  SamplingSettings settings = tiny();
  int measured = 0;
  const auto count = [&](const ExperimentProgress&) { ++measured; };
  const std::string first =
      sampling_json(settings, run_sampling(device, settings, folder.path(), count));
  EXPECT_EQ(measured, 2 * 2 * 6);
  EXPECT_EQ(sampling_json(settings, run_sampling(device, settings, folder.path(), count)), first);
  EXPECT_EQ(measured, 2 * 2 * 6);
  settings.d_model = 32;
  expect_error([&] { run_sampling(device, settings, folder.path(), count); },
               "take another folder");
}

TEST(Sampling, says_how_many_tokens_a_model_sees) {
  const TemporaryFolder folder;
  Device device("cpu");
  SamplingSettings settings = tiny();
  settings.mixers = {MixerKind::mamba, MixerKind::wavenet, MixerKind::hyena};
  settings.n_layers = 2;
  const SamplingResult result = run_sampling(device, settings, folder.path(), [](const auto&) {});
  const std::string table = sampling_tables(settings, result).front().text();
  EXPECT_NE(table.find("WaveNet, which sees 4 tokens "), std::string::npos) << table;
  EXPECT_NE(table.find("Hyena, which sees 2051 tokens "), std::string::npos) << table;
  EXPECT_EQ(table.find("Mamba, which"), std::string::npos) << table;
  EXPECT_NE(sampling_json(settings, result).find("\"sees\": 4"), std::string::npos);
}

TEST(Sampling, growth_is_the_exponent) {
  EXPECT_NEAR(growth({1, 2, 4, 8}, {9, 9, 48, 192}), 2, 1e-12);
  EXPECT_NEAR(growth({1, 2, 4, 8}, {5, 5, 5, 5}), 0, 1e-12);
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
// Greedy text of checkpoints in published layouts, against what an independent implementation in
// double precision wrote: 8 tokens of prompt and 24 more.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "elapse/generate/generate.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

constexpr int64_t kPrompt = 8;

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, GreedyText) {
  const std::string folder = std::string("../shared/goldens/") + GetParam();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there";
  const SafeTensors file = open_safetensors(folder + "/expected.safetensors");
  const Tensor& greedy = file.at("greedy");
  const int64_t* expected = greedy.data<int64_t>();
  for (const Backend* backend : backends()) {
    if (!backend->host_memory) continue;  // computes in double alone
    Device device(backend->name, 2);
    const auto model = load_model(device, folder, DType::f64);
    Session session(*model);
    session.prefill({expected, static_cast<size_t>(kPrompt)});
    std::vector<int64_t> text(expected, expected + kPrompt);
    generate(session, Sampler({.temperature = 0}), greedy.numel() - kPrompt, [&](int64_t token) {
      text.push_back(token);
      return true;
    });
    EXPECT_EQ(text, std::vector<int64_t>(expected, expected + greedy.numel())) << backend->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, Golden,
                         testing::Values("mamba1-hf", "mamba1-hf-bias-untied-n8-k3",
                                         "mamba2-hf-groups", "mamba2-hf-untied", "mamba2-original",
                                         "mamba1-original"),
                         [](const auto& checkpoint) {
                           std::string name = checkpoint.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace elapse

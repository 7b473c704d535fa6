// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "elapse/io/safetensors.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("elapse-checkpoint-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  ModelConfig config(Layout layout) {
    ModelConfig c = ModelConfig::mamba(8, 2, 13);
    c.layout = layout;
    if (layout == Layout::original) c.pad_vocab_multiple = 8;
    return c;
  }
  void write(const char* name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  // The sentence load_model refuses the folder with.
  std::string refusal() {
    try {
      load_model(device_, folder_.string(), DType::f32);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  void expect_refusal(const std::string& part) {
    const std::string sentence = refusal();
    EXPECT_NE(sentence.find(part), std::string::npos) << sentence;
  }
  // Saves a model with its tensors changed by `change`.
  void save_with(const std::function<void(std::vector<NamedTensor>&)>& change) {
    const LanguageModel model(device_, config(Layout::original), DType::f32, 1);
    save_model(model, folder_.string());
    std::vector<NamedTensor> tensors = host_parameters(model);
    change(tensors);
    write_safetensors((folder_ / "model.safetensors").string(), tensors);
  }

  Device device_{"ref"};
  fs::path folder_;
};

TEST_F(CheckpointTest, FalconMambaRoundTrips) {
  const auto model = load_model(device_, "tests/fixtures/falcon-mamba", DType::f32);
  save_model(*model, folder_.string());
  const auto loaded = load_model(device_, folder_.string(), DType::f32);
  EXPECT_TRUE(loaded->config() == model->config());
  EXPECT_EQ(loaded->fingerprint(), model->fingerprint());
}

TEST_F(CheckpointTest, RoundTripsInBothLayouts) {
  for (Layout layout : {Layout::original, Layout::transformers}) {
    const LanguageModel model(device_, config(layout), DType::f32, 5);
    save_model(model, folder_.string());
    const auto loaded = load_model(device_, folder_.string(), DType::f32);
    EXPECT_TRUE(loaded->config() == model.config());
    EXPECT_EQ(loaded->fingerprint(), model.fingerprint());
  }
}

TEST_F(CheckpointTest, TheSeedIsTheModel) {
  const auto fingerprint = [&](uint64_t seed) {
    return LanguageModel(device_, config(Layout::original), DType::f32, seed).fingerprint();
  };
  EXPECT_EQ(fingerprint(1), fingerprint(1));
  EXPECT_NE(fingerprint(1), fingerprint(2));
}

TEST_F(CheckpointTest, NamesWhatIsMissingExtraOrMisshapen) {
  save_with([](auto& tensors) { tensors.pop_back(); });
  expect_refusal("backbone.norm_f.weight\" (8) is missing");
  save_with([](auto& tensors) { tensors.push_back({"extra", tensors.front().tensor}); });
  expect_refusal("tensor \"extra\" is none the model has");
  save_with([](auto& tensors) { tensors.back().tensor = tensors.back().tensor.rows(0, 7); });
  expect_refusal("\"backbone.norm_f.weight\": expected shape (8), found (7)");
}

TEST_F(CheckpointTest, RefusesFoldersThatAreNoModel) {
  expect_refusal("config.json");
  write("config.json", "{\"d_model\": 8");
  expect_refusal("config.json");
  write("config.json", config(Layout::original).json());
  expect_refusal("found none of them");
  write("model.safetensors", "not one");
  expect_refusal("model.safetensors");
}

TEST_F(CheckpointTest, NamesTheConfigFieldAtFault) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"n_layer": 2, "vocab_size": 13})", "d_model"},
      {R"({"d_model": "8", "n_layer": 2, "vocab_size": 13})", "d_model"},
      {R"({"d_model": -8, "n_layer": 2, "vocab_size": 13})", "d_model"},
      {R"({"d_model": 1e9, "n_layer": 2, "vocab_size": 13})", "d_model"},
      {R"({"d_model": 99999999, "n_layer": 2, "vocab_size": 13})", "at most"},
      {R"({"d_model": 8, "n_layer": 2, "vocab_size": 13, "ssm_cfg": {"layer": "Mamba3"}})",
       "ssm_cfg.layer"},
      {R"({"model_type": "gpt2"})", "model_type"},
      {R"({"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9,
           "expand": 2, "intermediate_size": 17})",
       "contradicts"},
  };
  for (const auto& [text, part] : cases) {
    write("config.json", text);
    expect_refusal(part);
  }
}

TEST_F(CheckpointTest, InitialisationIsAsPublished) {
  ModelConfig c = ModelConfig::mamba(64, 4, 50);
  const LanguageModel model(device_, c, DType::f32, 9);
  const auto spread = [&](const char* name) {
    const Tensor& t = model.parameters().find(name)->var.value();
    double low = 1e9, high = -1e9;
    for (int64_t i = 0; i < t.numel(); ++i) {
      low = std::min<double>(low, t.data<float>()[i]);
      high = std::max<double>(high, t.data<float>()[i]);
    }
    return std::pair(low, high);
  };
  const std::string mixer = "backbone.layers.0.mixer.";
  const auto expect_uniform = [&](const char* name, double bound) {
    const auto [low, high] = spread((mixer + name).c_str());
    EXPECT_GE(low, -bound);
    EXPECT_LE(high, bound);
    EXPECT_LT(low, -0.9 * bound);
    EXPECT_GT(high, 0.9 * bound);
  };
  expect_uniform("in_proj.weight", 1 / 8.0);
  expect_uniform("conv1d.weight", 0.5);
  expect_uniform("conv1d.bias", 0.5);
  expect_uniform("x_proj.weight", 1 / std::sqrt(128.0));
  expect_uniform("dt_proj.weight", 0.5);
  expect_uniform("out_proj.weight", 1 / std::sqrt(128.0) / 2);  // divided by sqrt(n_layers)
  const auto [low, high] = spread((mixer + "dt_proj.bias").c_str());
  EXPECT_GE(std::log1p(std::exp(low)), 0.999e-3);
  EXPECT_LE(std::log1p(std::exp(high)), 0.1001);
  EXPECT_FLOAT_EQ(static_cast<float>(spread((mixer + "A_log").c_str()).second), std::log(16.0F));
  for (const Parameter& p : model.parameters().all()) {
    const bool bias_or_norm = p.name.ends_with(".bias") || p.name.find("norm") != p.name.npos;
    const bool ssm = p.name.ends_with("A_log") || p.name.ends_with(".D");
    EXPECT_EQ(p.decay, !bias_or_norm && !ssm) << p.name;
  }
}

}  // namespace
}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/convert.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "elapse/core/convert.h"
#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

const std::string kPickle = "tests/fixtures/original-pickle";
const std::string kFalcon = "tests/fixtures/falcon-mamba";

using Bytes = std::map<std::string, std::string>;

// The elements of a checkpoint's parameters, and their dtypes, by name.
Bytes bytes_of(const std::string& folder) {
  const Checkpoint checkpoint = open_checkpoint(folder);
  Bytes bytes;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (checkpoint.config.tied_head && name == "lm_head.weight") continue;
    bytes[name] =
        std::string(name_of(tensor.dtype())) +
        std::string(static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
  }
  return bytes;
}

std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] =
        entry.is_regular_file() ? read_text(entry.path().string()) : "a folder";
  }
  return files;
}

class ConvertCheckpoint : public testing::Test {
 protected:
  std::string in(const std::string& name) const { return folder_ / name; }
  // Converts a folder into a new one here, whose path is returned.
  std::string convert(const std::string& from, const ConvertOptions& options = {}) {
    const std::string to = in(fmt::format("made-{}", ++made_));
    convert_checkpoint(from, to, options);
    return to;
  }
  // A checkpoint of f32 with one weight set to `value`.
  std::string with_weight(float value) {
    Device device("ref");
    const LanguageModel model(device, ModelConfig::mamba(8, 1, 13), DType::f32, 1);
    model.parameters().find("backbone.norm_f.weight")->var.value().data<float>()[3] = value;
    save_model(model, in("weight"));
    return in("weight");
  }

  TemporaryFolder folder_;
  int made_ = 0;
};

TEST_F(ConvertCheckpoint, a_round_trip_between_layouts_loses_no_bit) {
  const std::string hf = convert(kPickle, {.layout = Layout::transformers});
  EXPECT_EQ(open_checkpoint(hf).config.layout, Layout::transformers);
  const std::string back = convert(hf, {.layout = Layout::original});
  EXPECT_EQ(bytes_of(hf), bytes_of(kPickle));
  EXPECT_EQ(bytes_of(back), bytes_of(kPickle));
  EXPECT_EQ(open_checkpoint(back).config, open_checkpoint(kPickle).config);
  EXPECT_EQ(open_safetensors(back + "/model.safetensors").find("lm_head.weight"), nullptr);
  // From here on the bytes of the files themselves.
  EXPECT_EQ(contents(convert(convert(back, {.layout = Layout::transformers}),
                             {.layout = Layout::original})),
            contents(back));
}

TEST_F(ConvertCheckpoint, llamas_go_to_our_form_and_back_bit_for_bit) {
  for (const char* name : {"tests/fixtures/llama", "tests/fixtures/mistral"}) {
    const std::string own = convert(name, {.layout = Layout::original});
    EXPECT_EQ(bytes_of(own), bytes_of(name));
    const std::string back = convert(own, {.layout = Layout::transformers});
    EXPECT_EQ(open_checkpoint(back).config, open_checkpoint(name).config);
    EXPECT_EQ(contents(convert(convert(back, {.layout = Layout::original}),
                               {.layout = Layout::transformers})),
              contents(back));
    // Under Llama's names, with the gate and what it multiplies apart; in our form they are one.
    const SafeTensors from = open_safetensors(std::string(name) + "/model.safetensors");
    const SafeTensors there = open_safetensors(back + "/model.safetensors");
    ASSERT_EQ(there.tensors().size(), from.tensors().size());
    for (const NamedTensor& t : from.tensors()) EXPECT_NE(there.find(t.name), nullptr) << t.name;
    const SafeTensors in_own = open_safetensors(own + "/model.safetensors");
    const int64_t wide = open_checkpoint(name).config.d_intermediate;
    EXPECT_EQ(in_own.at("backbone.layers.1.mlp.fc1.weight").dim(0), 2 * wide);
    EXPECT_EQ(in_own.find("backbone.layers.1.mlp.up_proj.weight"), nullptr);
  }
  expect_error([&] { convert("tests/fixtures/gpt2", {.layout = Layout::transformers}); },
               "stays in the original layout");
  expect_error([&] { convert("tests/fixtures/mamba-mlp", {.layout = Layout::transformers}); },
               "mixers without an MLP");
}

TEST_F(ConvertCheckpoint, saved_models_have_the_tensors_of_their_layout) {
  Device device("ref");
  for (const char* name : {"llama", "mistral", "gpt2", "mamba-mlp"}) {
    const std::string from = std::string("tests/fixtures/") + name, to = in(name);
    save_model(*load_model(device, from, DType::f32), to);
    EXPECT_EQ(bytes_of(to), bytes_of(from));
    EXPECT_EQ(open_checkpoint(to).config, open_checkpoint(from).config);
    const SafeTensors made = open_safetensors(to + "/model.safetensors");
    const SafeTensors before = open_safetensors(from + "/model.safetensors");
    for (const NamedTensor& t : before.tensors()) {
      EXPECT_EQ(made.at(t.name).shape(), t.tensor.shape()) << t.name;
    }
  }
}

TEST_F(ConvertCheckpoint, both_halves_of_an_mlp_take_the_dtype_asked_for) {
  const std::string small = convert("tests/fixtures/mamba-mlp", {.dtype = DType::bf16});
  const SafeTensors file = open_safetensors(small + "/model.safetensors");
  EXPECT_EQ(file.at("backbone.layers.0.mlp.fc1.weight").dtype(), DType::bf16);
  EXPECT_EQ(bytes_of(convert(convert(small, {.dtype = DType::f32}), {.dtype = DType::bf16})),
            bytes_of(small));
}

TEST_F(ConvertCheckpoint, every_small_dtype_widens_and_comes_back) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const std::string small = convert(kPickle, {.dtype = dtype});
    const std::string wide = convert(small, {.dtype = DType::f32});
    EXPECT_EQ(bytes_of(convert(wide, {.dtype = dtype})), bytes_of(small));
    EXPECT_EQ(bytes_of(convert(small)), bytes_of(small));
    for (const auto& [name, bytes] : bytes_of(small))
      EXPECT_TRUE(bytes.starts_with(name_of(dtype)));
  }
}

TEST_F(ConvertCheckpoint, falcon_mamba_keeps_what_makes_it_one) {
  const std::string to = convert(kFalcon, {.dtype = DType::bf16});
  EXPECT_EQ(open_checkpoint(to).config, open_checkpoint(kFalcon).config);
  expect_error([&] { convert(kFalcon, {.layout = Layout::original}); }, "no weightless norms");
}

TEST_F(ConvertCheckpoint, shards_hold_at_most_what_is_asked) {
  constexpr int64_t kMax = 2500;
  const std::string whole = convert(kPickle);
  const std::string sharded = convert(kPickle, {.max_shard_bytes = kMax});
  EXPECT_EQ(bytes_of(sharded), bytes_of(whole));
  const Checkpoint checkpoint = open_checkpoint(sharded);
  EXPECT_EQ(checkpoint.source, sharded + "/model.safetensors.index.json");
  ASSERT_EQ(checkpoint.files.size(), 5u);
  EXPECT_EQ(checkpoint.files[0].path, sharded + "/model-00001-of-00005.safetensors");
  for (const WeightFile& file : checkpoint.files) {
    int64_t bytes = 0;
    for (const NamedTensor& t : file.tensors) bytes += t.tensor.bytes();
    EXPECT_LE(bytes, kMax);
  }
  EXPECT_EQ(contents(convert(sharded)), contents(whole));
  // Each tensor a shard of its own.
  EXPECT_EQ(bytes_of(convert(sharded, {.max_shard_bytes = 1})), bytes_of(whole));
}

TEST_F(ConvertCheckpoint, reads_a_model_that_loads_the_same) {
  Device device("ref");
  const std::string to =
      convert(kPickle, {.layout = Layout::transformers, .max_shard_bytes = 2500});
  const auto a = load_model(device, kPickle, DType::f32), b = load_model(device, to, DType::f32);
  for (const Parameter& p : a->parameters().all()) {
    const Tensor& other = b->parameters().find(p.name)->var.value();
    EXPECT_EQ(std::memcmp(p.var.value().raw(), other.raw(), static_cast<size_t>(other.bytes())), 0);
  }
}

TEST_F(ConvertCheckpoint, refuses_values_too_large_for_the_dtype) {
  const std::string from = with_weight(65520.0f);
  expect_error(
      [&] { convert_checkpoint(from, in("to"), {.dtype = DType::f16}); },
      "weight/model.safetensors: tensor \"backbone.norm_f.weight\" holds finite values too "
      "large for f16");
  EXPECT_FALSE(fs::exists(in("to")));
  convert(with_weight(65519.0f), {.dtype = DType::f16});
  convert(with_weight(INFINITY), {.dtype = DType::f16});
  expect_error([&] { convert(with_weight(3.4e38f), {.dtype = DType::bf16}); },
               "too large for bf16");
}

TEST_F(ConvertCheckpoint, copies_the_tokenizer) {
  const std::string from = convert(kPickle);
  std::ofstream(from + "/tokenizer.json") << "any bytes";
  std::ofstream(from + "/added_tokens.json") << "{}";
  std::ofstream(from + "/tokenizer.model") << "more bytes";
  std::ofstream(from + "/generation_config.json") << "{}";
  std::ofstream(from + "/notes.txt") << "no part of a checkpoint";
  const auto files = contents(convert(from));
  EXPECT_EQ(files.size(), 6u);
  EXPECT_EQ(files.at("added_tokens.json"), "{}");
  EXPECT_EQ(files.at("tokenizer.model"), "more bytes");
  EXPECT_EQ(files.at("tokenizer.json"), "any bytes");
  EXPECT_EQ(files.at("generation_config.json"), "{}");
}

TEST_F(ConvertCheckpoint, replaces_a_checkpoint_only_where_asked) {
  const std::string to = convert(kPickle, {.max_shard_bytes = 2500});
  std::ofstream(to + "/notes.txt") << "mine";
  const auto before = contents(to);
  expect_error([&] { convert_checkpoint(kFalcon, to, {}); },
               "there is a checkpoint or a part of one already (");
  EXPECT_EQ(contents(to), before);
  convert_checkpoint(kFalcon, to, {.replace = true});
  EXPECT_EQ(bytes_of(to), bytes_of(kFalcon));
  const auto after = contents(to);
  EXPECT_EQ(after.size(), 3u);  // the shards are gone
  EXPECT_EQ(after.at("notes.txt"), "mine");
  convert_checkpoint(kPickle, to, {.max_shard_bytes = 2500, .replace = true});
  EXPECT_EQ(contents(to), before);
}

class SpecialTokensOfConvert : public ConvertCheckpoint {
 protected:
  // A checkpoint in the transformers layout that states `tokens`.
  std::string with(const SpecialTokens& tokens) {
    const std::string folder = convert(kPickle, {.layout = Layout::transformers});
    ModelConfig config = open_checkpoint(folder).config;
    config.special_tokens = tokens;
    std::ofstream(folder + "/config.json") << config.json();
    return folder;
  }
};

TEST_F(SpecialTokensOfConvert, survive_both_layouts) {
  const SpecialTokens tokens = {{3}, {0, 5}, {}};
  const std::string from = with(tokens);
  EXPECT_EQ(open_checkpoint(convert(from)).config.special_tokens, tokens);
  const std::string original = convert(from, {.layout = Layout::original});
  const std::string path = original + "/generation_config.json";
  EXPECT_EQ(SpecialTokens::parse(Json::parse(read_text(path), path), 24), tokens);
  const std::string back = convert(original, {.layout = Layout::transformers});
  EXPECT_EQ(open_checkpoint(back).config.special_tokens, tokens);
}

TEST_F(SpecialTokensOfConvert, are_not_made_up) {
  const std::string to = convert(kPickle, {.layout = Layout::transformers});
  EXPECT_EQ(read_text(to + "/config.json").find("token_id"), std::string::npos);
  EXPECT_FALSE(file_exists(convert(to, {.layout = Layout::original}) + "/generation_config.json"));
}

TEST_F(SpecialTokensOfConvert, are_refused_where_a_file_that_is_copied_lacks_them) {
  const std::string from = with({{0}, {7}, {}});
  std::ofstream(from + "/generation_config.json") << R"({"bos_token_id": 0})";
  expect_error([&] { convert(from, {.layout = Layout::original}); },
               "generation_config.json: expected the bos_token_id, eos_token_id");
  convert(from);
  std::ofstream(from + "/generation_config.json") << R"({"bos_token_id": 0, "eos_token_id": [7]})";
  convert(from, {.layout = Layout::original});
}

TEST_F(ConvertCheckpoint, a_tokenizer_is_a_part_of_a_checkpoint) {
  fs::create_directory(in("to"));
  std::ofstream(in("to/tokenizer.json")) << "another model's";
  std::ofstream(in("to/generation_config.json")) << "{}";
  const auto before = contents(in("to"));
  expect_error([&] { convert_checkpoint(kPickle, in("to"), {}); }, "a part of one already (");
  EXPECT_EQ(contents(in("to")), before);
  convert_checkpoint(kPickle, in("to"), {.replace = true});
  EXPECT_EQ(contents(in("to")), contents(convert(kPickle)));
}

TEST_F(ConvertCheckpoint, never_writes_where_it_reads) {
  const std::string from = convert(kPickle);
  expect_error([&] { convert_checkpoint(from, from + "/.", {.replace = true}); },
               "the folder to write to is the one read from");
}

TEST_F(ConvertCheckpoint, leaves_all_as_it_was_when_it_fails) {
  const auto fail_late = [](int64_t done, int64_t total) {
    if (done > total / 2) fail("enough");
  };
  expect_error([&] { convert_checkpoint(kPickle, in("new"), {.progress = fail_late}); }, "enough");
  EXPECT_FALSE(fs::exists(in("new")));
  const std::string old = convert(kFalcon);
  const auto before = contents(old);
  ConvertOptions options;
  options.max_shard_bytes = 2500;
  options.replace = true;
  options.progress = fail_late;
  expect_error([&] { convert_checkpoint(kPickle, old, options); }, "enough");
  EXPECT_EQ(contents(old), before);
}

TEST_F(ConvertCheckpoint, tells_how_far_it_has_come) {
  int64_t last = 0, all = 0;
  ConvertOptions options;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last);
    last = done;
    all = total;
  };
  convert(kPickle, options);
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, 4 * open_checkpoint(kPickle).config.parameter_count());
}

}  // namespace
}  // namespace elapse

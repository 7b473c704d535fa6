// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/checkpoint_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "elapse/io/file.h"
#include "elapse/io/json_writer.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

class CheckpointFiles : public testing::Test {
 protected:
  // Saves a small model with its tensors changed by `change`.
  void save(const std::function<void(std::vector<NamedTensor>&)>& change, bool tied = true) {
    ModelConfig config = ModelConfig::mamba(8, 1, 13);
    config.tied_head = tied;
    const LanguageModel model(device_, config, DType::f32, 1);
    save_model(model, folder_.path());
    std::vector<NamedTensor> tensors = host_parameters(model);
    change(tensors);
    write_safetensors(folder_ / "model.safetensors", tensors);
  }
  void expect_refused(const std::string& part) {
    expect_error([&] { load_model(device_, folder_.path(), DType::f32); }, part);
  }

  Device device_{"ref"};
  TemporaryFolder folder_;
};

TEST_F(CheckpointFiles, give_the_names_of_the_original_layout) {
  const Checkpoint checkpoint = open_checkpoint("tests/fixtures/transformers");
  EXPECT_EQ(checkpoint.source, "tests/fixtures/transformers/model.safetensors");
  size_t found = 0;
  for (const NamedTensor& t : checkpoint.tensors) found += t.name == "backbone.embedding.weight";
  EXPECT_EQ(found, 1u);
  EXPECT_EQ(name_in_file("backbone.embedding.weight", TensorNames::transformers),
            "backbone.embeddings.weight");
  EXPECT_EQ(name_in_file("backbone.norm_f.weight", TensorNames::transformers),
            "backbone.norm_f.weight");
}

TEST_F(CheckpointFiles, may_hold_a_tied_head_twice) {
  save([](auto& tensors) { tensors.push_back({"lm_head.weight", tensors.front().tensor}); });
  load_model(device_, folder_.path(), DType::f32);
  save([](auto& tensors) { tensors.push_back({"lm_head.weight", tensors.back().tensor}); });
  expect_refused("\"lm_head.weight\": expected shape (13, 8), found (8)");
}

TEST_F(CheckpointFiles, refuse_a_tied_head_that_differs) {
  std::vector<float> other(13 * 8, 0.5f);
  save([&](auto& tensors) {
    tensors.push_back({"lm_head.weight", Tensor::wrap(other.data(), DType::f32, {13, 8})});
  });
  expect_refused(
      "\"lm_head.weight\" differs from \"backbone.embedding.weight\", but the "
      "configuration ties the two");
}

TEST_F(CheckpointFiles, refuse_an_own_head_that_is_missing) {
  save([](auto& tensors) { tensors.pop_back(); }, false);
  expect_refused("tensor \"lm_head.weight\" (13, 8) is missing");
}

TEST_F(CheckpointFiles, refuse_both_names_of_the_embedding_at_once) {
  save([](auto& tensors) {
    tensors.push_back({"backbone.embeddings.weight", tensors.front().tensor});
  });
  expect_refused(
      "tensor \"backbone.embedding.weight\" occurs twice, here as \"backbone.embeddings.weight\"");
}

NamedTensor& renamed_embedding(std::vector<NamedTensor>& tensors) {
  tensors.front().name = "backbone.embeddings.weight";
  return tensors.front();
}

TEST_F(CheckpointFiles, are_named_in_errors_as_they_name_themselves) {
  std::vector<float> values(13 * 9);
  save([&](auto& tensors) {
    renamed_embedding(tensors).tensor = Tensor::wrap(values.data(), DType::f32, {13, 9});
  });
  expect_refused("\"backbone.embeddings.weight\": expected shape (13, 8), found (13, 9)");
  save([](auto& tensors) { tensors.erase(tensors.begin()); });
  expect_refused("tensor \"backbone.embeddings.weight\" (13, 8) is missing");
  save([&](auto& tensors) {
    renamed_embedding(tensors);
    tensors.push_back({"lm_head.weight", Tensor::wrap(values.data(), DType::f32, {13, 8})});
  });
  expect_refused("\"lm_head.weight\" differs from \"backbone.embeddings.weight\"");
}

// A copy of a fixture whose tensors are changed.
void change_fixture(const std::string& name, const TemporaryFolder& folder,
                    const std::function<void(std::vector<NamedTensor>&)>& change) {
  const std::string from = "tests/fixtures/" + name;
  std::filesystem::copy(from + "/config.json", folder / "config.json",
                        std::filesystem::copy_options::overwrite_existing);
  std::vector<NamedTensor> tensors = open_safetensors(from + "/model.safetensors").tensors();
  change(tensors);
  write_safetensors(folder / "model.safetensors", tensors);
}

TEST_F(CheckpointFiles, of_llamas_are_named_in_errors_as_they_name_themselves) {
  const auto named = [](std::vector<NamedTensor>& tensors, std::string_view part) -> NamedTensor& {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& t) {
      return t.name.find(part) != std::string::npos;
    });
  };
  std::vector<float> values(64);
  const Tensor three = Tensor::wrap(values.data(), DType::f32, {3});
  change_fixture("llama", folder_, [&](auto& tensors) {
    named(tensors, "layers.1.self_attn.k_proj").tensor = three;
  });
  expect_refused(
      "tensor \"model.layers.1.self_attn.k_proj.weight\": expected shape (12, 10), found (3)");
  change_fixture("llama", folder_, [&](auto& tensors) {
    named(tensors, "layers.0.post_attention_layernorm").name = "model.layers.0.nothing.weight";
  });
  expect_refused("tensor \"model.layers.0.post_attention_layernorm.weight\" (10) is missing");
  change_fixture("llama", folder_, [&](auto& tensors) {
    tensors.push_back({"model.layers.0.self_attn.q_norm.weight", three});
  });
  expect_refused("tensor \"model.layers.0.self_attn.q_norm.weight\" is none the model has");
  change_fixture("llama", folder_, [&](auto& tensors) {
    tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", three});
  });
  load_model(device_, folder_.path(), DType::f32);  // of old files, and made anew
  change_fixture("mamba-mlp", folder_,
                 [&](auto& tensors) { named(tensors, "layers.1.mlp.fc1").tensor = three; });
  expect_refused("tensor \"backbone.layers.1.mlp.fc1.weight\": expected shape (256, 6), found (3)");
}

TEST_F(CheckpointFiles, refuse_weights_that_are_no_floats) {
  std::vector<int32_t> integers(8);
  save([&](auto& tensors) {
    for (NamedTensor& t : tensors) {
      if (t.name.ends_with("norm_f.weight")) {
        t.tensor = Tensor::wrap(integers.data(), DType::i32, {8});
      }
    }
  });
  expect_refused("\"backbone.norm_f.weight\": expected f32, f64, f16 or bf16, found i32");
}

// The shape of mamba-2.8b in bf16, in a file that takes no room on the disk.
void write_large_checkpoint(const TemporaryFolder& folder) {
  const ModelConfig config = ModelConfig::mamba(2560, 64, 50280);
  write_file_atomically(folder / "config.json",
                        [&](FileWriter& file) { file.write(config.json(DType::bf16)); });
  JsonWriter header(JsonWriter::Style::one_line);
  header.begin_object();
  int64_t end = 0;
  config.for_each_parameter([&](const std::string& name, const Shape& shape) {
    header.key(name).begin_object().field("dtype", "BF16").key("shape").begin_array();
    for (int i = 0; i < shape.rank(); ++i) header.value(shape[i]);
    const int64_t begin = end;
    end += shape.numel() * size_of(DType::bf16);
    header.end_array().key("data_offsets").begin_array().value(begin).value(end).end_array();
    header.end_object();
  });
  std::string text = header.end_object().text();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<uint64_t>(text.size());
  std::ofstream(folder / "model.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(&length), sizeof(length))
      .write(text.data(), static_cast<std::streamsize>(text.size()));
  fs::resize_file(folder / "model.safetensors", sizeof(length) + text.size() + end);
}

int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

TEST_F(CheckpointFiles, are_opened_without_reading_the_weights) {
  write_large_checkpoint(folder_);
  const int64_t before = page_faults();
  const Checkpoint checkpoint = open_checkpoint(folder_.path());
  // The weights are 1.4 million pages.
  EXPECT_LT(page_faults() - before, 50000);
  EXPECT_EQ(checkpoint.config.parameter_count(), 2768345600);
  EXPECT_EQ(checkpoint.tensors.front().tensor.dtype(), DType::bf16);
}

}  // namespace
}  // namespace elapse

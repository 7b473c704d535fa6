// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/checkpoint_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "elapse/core/convert.h"
#include "elapse/core/error.h"
#include "elapse/io/file.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfigFile = "config.json";
constexpr std::string_view kEmbedding = "backbone.embedding.weight";
constexpr std::string_view kHead = "lm_head.weight";

using ByName = std::map<std::string, Tensor, std::less<>>;

// Whose names the files have: those of the configuration's layout, but for Mamba's, which go by the
// embedding's.
TensorNames find_names(const Checkpoint& checkpoint) {
  const TensorNames stated = names_of(checkpoint.config, checkpoint.config.layout);
  if (stated == TensorNames::llama || checkpoint.config.mixer == MixerKind::attention)
    return stated;
  TensorNames found = stated;
  for (const WeightFile& file : checkpoint.files) {
    for (const NamedTensor& t : file.tensors) {
      for (const TensorNames names : {TensorNames::original, TensorNames::transformers}) {
        if (t.name == name_in_file(std::string(kEmbedding), names)) found = names;
      }
    }
  }
  return found;
}

// What transformers once saved of Llamas that is made anew from the configuration.
bool is_derived(const NamedTensor& t) { return t.name.ends_with(".rotary_emb.inv_freq"); }

// Names the files' tensors as the model does.
ByName name_tensors(Checkpoint& checkpoint) {
  checkpoint.names = find_names(checkpoint);
  ByName by_name;
  for (const WeightFile& file : checkpoint.files) {
    for (const NamedTensor& t : file.tensors) {
      if (checkpoint.names == TensorNames::llama && is_derived(t)) continue;
      for (NamedTensor& part :
           parameters_in(t, checkpoint.config, checkpoint.names, checkpoint.source)) {
        const bool is_new = by_name.emplace(part.name, part.tensor).second;
        ELAPSE_CHECK(is_new, "{}: tensor {} occurs twice, here as {}", file.path, quote(part.name),
                     quote(t.name));
        checkpoint.tensors.push_back(std::move(part));
      }
    }
  }
  return by_name;
}

// Holds the configuration to the files' tensors before anything of its sizes is made, so that a
// model is no larger than the files that fill it.
void check_parameters(const Checkpoint& checkpoint, ByName tensors) {
  const ModelConfig& config = checkpoint.config;
  const std::string& source = checkpoint.source;
  const auto expect = [&](const std::string& name, const Shape& shape) {
    const std::string in_file = name_in_file(name, checkpoint.names);
    const auto found = tensors.find(name);
    ELAPSE_CHECK(found != tensors.end(), "{}: tensor \"{}\" {} is missing", source, in_file,
                 shape.str());
    check_parameter(source, in_file, shape, found->second);
    tensors.erase(found);
  };
  config.for_each_parameter(expect);
  if (config.tied_head && tensors.contains(kHead)) {
    expect(std::string(kHead), {config.vocab(), config.d_model});
  }
  ELAPSE_CHECK(tensors.empty(), "{}: tensor {} is none the model has", source,
               quote(name_in_file(tensors.begin()->first, checkpoint.names)));
}

const Tensor* find(const std::vector<NamedTensor>& tensors, std::string_view name) {
  for (const NamedTensor& t : tensors) {
    if (t.name == name) return &t.tensor;
  }
  return nullptr;
}

bool same_elements(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) return false;
  return a.raw() == b.raw() || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace

void check_parameter(const std::string& source, std::string_view name, const Shape& shape,
                     const Tensor& found) {
  ELAPSE_CHECK(found.shape() == shape, "{}: tensor \"{}\": expected shape {}, found {}", source,
               name, shape.str(), found.shape().str());
  ELAPSE_CHECK(is_float(found.dtype()),
               "{}: tensor \"{}\": expected f32, f64, f16 or bf16, found {}", source, name,
               name_of(found.dtype()));
}

std::vector<std::string> companion_files() {
  std::vector<std::string> names(kTokenizerFiles.begin(), kTokenizerFiles.end());
  names.emplace_back("generation_config.json");
  return names;
}

bool is_checkpoint_file(std::string_view name) {
  const auto beside = companion_files();
  return name == kConfigFile || is_weight_file(name) ||
         std::find(beside.begin(), beside.end(), name) != beside.end();
}

Checkpoint open_checkpoint(const std::string& directory) {
  const std::string config_path = (fs::path(directory) / kConfigFile).string();
  ELAPSE_CHECK(file_exists(config_path),
               "{}: expected a model's folder with config.json, found none", directory);
  Checkpoint checkpoint;
  checkpoint.config = ModelConfig::parse(Json::parse(read_text(config_path), config_path));
  auto [source, files] = open_weights(directory);
  checkpoint.source = std::move(source);
  checkpoint.files = std::move(files);
  check_parameters(checkpoint, name_tensors(checkpoint));
  return checkpoint;
}

void check_tied_head(const Checkpoint& checkpoint) {
  if (!checkpoint.config.tied_head) return;
  const Tensor* head = find(checkpoint.tensors, kHead);
  ELAPSE_CHECK(head == nullptr || same_elements(*head, *find(checkpoint.tensors, kEmbedding)),
               "{}: tensor \"{}\" differs from \"{}\", but the configuration ties the two",
               checkpoint.source, kHead, name_in_file(std::string(kEmbedding), checkpoint.names));
}

}  // namespace elapse

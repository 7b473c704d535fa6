// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/tensor_names.h"

#include <array>
#include <utility>

#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

using Renaming = std::pair<std::string_view, std::string_view>;  // ours, the file's

// Of what opens a name.
constexpr std::array<Renaming, 1> kTransformers = {
    {{"backbone.embedding.", "backbone.embeddings."}}};
constexpr std::array<Renaming, 3> kLlama = {{{"backbone.embedding.", "model.embed_tokens."},
                                             {"backbone.norm_f.", "model.norm."},
                                             {"backbone.layers.", "model.layers."}}};
// Of what follows a layer's number.
constexpr std::array<Renaming, 3> kLlamaLayer = {{{"norm.", "input_layernorm."},
                                                  {"mixer.", "self_attn."},
                                                  {"norm2.", "post_attention_layernorm."}}};

constexpr std::string_view kUp = ".mlp.up_proj.", kGate = ".mlp.gate_proj.",
                           kDown = ".mlp.down_proj.", kFc1 = ".mlp.fc1.", kFc2 = ".mlp.fc2.";

// `name` with `what` at `at` replaced; as it is where it does not stand there.
std::string replaced_at(const std::string& name, size_t at, std::string_view what,
                        std::string_view with) {
  return fmt::format("{}{}{}", name.substr(0, at), with, name.substr(at + what.size()));
}

std::string replaced(const std::string& name, std::string_view what, std::string_view with) {
  const size_t at = name.find(what);
  return at == std::string::npos ? name : replaced_at(name, at, what, with);
}

template <size_t kCount>
std::string renamed(const std::string& name, size_t at,
                    const std::array<Renaming, kCount>& renamings, bool to_file) {
  for (const auto& [ours, file] : renamings) {
    const auto [from, to] = to_file ? std::pair(ours, file) : std::pair(file, ours);
    if (name.compare(at, from.size(), from) == 0) return replaced_at(name, at, from, to);
  }
  return name;
}

std::string llama_renamed(const std::string& name, bool to_file) {
  const std::string outer = renamed(name, 0, kLlama, to_file);
  const std::string_view layers = to_file ? "model.layers." : "backbone.layers.";
  if (!outer.starts_with(layers)) return outer;
  const size_t number_ends = outer.find('.', layers.size());
  if (number_ends == std::string::npos) return outer;
  return renamed(outer, number_ends + 1, kLlamaLayer, to_file);
}

Shape doubled(Shape shape) {
  shape.set(0, 2 * shape[0]);
  return shape;
}

}  // namespace

TensorNames names_of(const ModelConfig& config, Layout layout) {
  if (layout == Layout::original) return TensorNames::original;
  return config.mixer == MixerKind::attention ? TensorNames::llama : TensorNames::transformers;
}

std::string name_in_file(const std::string& parameter, TensorNames names) {
  if (names == TensorNames::transformers) return renamed(parameter, 0, kTransformers, true);
  if (names == TensorNames::llama) return llama_renamed(parameter, true);
  const std::string gated = replaced(replaced(parameter, kUp, kFc1), kGate, kFc1);
  return replaced(gated, kDown, kFc2);
}

std::vector<NamedTensor> parameters_in(const NamedTensor& tensor, const ModelConfig& config,
                                       TensorNames names, const std::string& source) {
  const std::string& name = tensor.name;
  if (names == TensorNames::llama) return {{llama_renamed(name, false), tensor.tensor}};
  if (names == TensorNames::transformers) {
    return {{renamed(name, 0, kTransformers, false), tensor.tensor}};
  }
  if (config.d_intermediate == 0 || config.mlp != MlpKind::swiglu) return {tensor};
  if (name.find(kFc1) == std::string::npos) {
    return {{replaced(name, kFc2, kDown), tensor.tensor}};
  }
  const int64_t rows = config.d_intermediate;
  const bool is_bias = name.ends_with(".bias");
  check_parameter(source, name, is_bias ? Shape{2 * rows} : Shape{2 * rows, config.d_model},
                  tensor.tensor);
  return {{replaced(name, kFc1, kUp), tensor.tensor.rows(0, rows)},
          {replaced(name, kFc1, kGate), tensor.tensor.rows(rows, 2 * rows)}};
}

std::vector<FileTensor> file_tensors(const ModelConfig& config, TensorNames names) {
  std::vector<FileTensor> list;
  config.for_each_parameter([&](const std::string& name, const Shape& shape) {
    const bool fused = names == TensorNames::original;
    if (fused && name.find(kGate) != std::string::npos) return;  // stands with up_proj
    list.push_back({name_in_file(name, names), shape, {name}});
    if (!fused || name.find(kUp) == std::string::npos) return;
    list.back().shape = doubled(shape);
    list.back().parameters.push_back(replaced(name, kUp, kGate));
  });
  return list;
}

}  // namespace elapse

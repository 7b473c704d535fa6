// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/core/tensor.h"
#include "elapse/io/named_tensor.h"
#include "elapse/model/config.h"

// How files name what LanguageModel calls "backbone.layers.0.mixer.A_log".
namespace elapse {

enum class TensorNames : uint8_t {
  original,  // state-spaces/mamba's, which has up_proj and gate_proj of a SwiGLU in one: mlp.fc1
  transformers,  // backbone.embeddings
  llama,         // transformers' of attention: model.layers.0.self_attn.q_proj
};
TensorNames names_of(const ModelConfig& config, Layout layout);

// The file's tensor that a parameter is, or is rows of.
std::string name_in_file(const std::string& parameter, TensorNames names);

// The parameters that a file's tensor holds, as views of it: one but for mlp.fc1, under a name of
// no model where the tensor has none. Throws Error for a fc1 of another shape than the model's.
std::vector<NamedTensor> parameters_in(const NamedTensor& tensor, const ModelConfig& config,
                                       TensorNames names, const std::string& source);

// A tensor as a file has it: the rows of `parameters`, one after another.
struct FileTensor {
  std::string name;
  Shape shape;
  std::vector<std::string> parameters;
};
std::vector<FileTensor> file_tensors(const ModelConfig& config, TensorNames names);

}  // namespace elapse

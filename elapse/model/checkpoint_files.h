// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/io/weight_files.h"
#include "elapse/model/config.h"
#include "elapse/model/tensor_names.h"

namespace elapse {

// The files a tokenizer may consist of; a folder has some of them.
inline constexpr std::array kTokenizerFiles = {"tokenizer.json",    "tokenizer_config.json",
                                               "tokenizer.model",   "special_tokens_map.json",
                                               "added_tokens.json", "vocab.json",
                                               "merges.txt"};

// All files that stand beside the weights and belong to them: a tokenizer's and
// generation_config.json.
std::vector<std::string> companion_files();

// Whether a file of this name is a checkpoint's: config.json, weights, their index or what stands
// beside them.
bool is_checkpoint_file(std::string_view name);

// What a training run's folder has beside its model (elapse/train/checkpoint.h).
inline constexpr const char* kResumeFile = "resume.safetensors";

// A published checkpoint as its folder holds it. Its tensors are views of mapped files: f32, f64,
// f16 or bf16 as they lie there.
struct Checkpoint {
  ModelConfig config;
  std::string source;             // the file of weights or their index: what opens errors
  std::vector<WeightFile> files;  // as they are
  TensorNames names = TensorNames::original;  // that they have
  std::vector<NamedTensor> tensors;           // of all files, under the model's names
};

// Opens DIR/config.json and the weights beside it (open_weights), in either published layout, and
// reads no weights. Every parameter must be there in its shape and nothing else, except that a tied
// head may be there a second time as lm_head.weight; throws Error naming the file, the tensor, what
// was expected and what was found.
Checkpoint open_checkpoint(const std::string& directory);

// Throws Error where the configuration ties the head to the embedding, but lm_head.weight is there
// with other elements: published readers disagree about which counts. Reads both, unless they share
// their memory.
void check_tied_head(const Checkpoint& checkpoint);

// Throws Error unless the tensor has this shape and a floating-point dtype. `name`: the file's.
void check_parameter(const std::string& source, std::string_view name, const Shape& shape,
                     const Tensor& found);

}  // namespace elapse

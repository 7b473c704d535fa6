// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/io/named_tensor.h"

namespace elapse {

// Which file of a folder holds which tensors, as "model.safetensors.index.json" and
// "pytorch_model.bin.index.json" state it.
using ShardIndex = std::map<std::string, std::set<std::string>, std::less<>>;

// Throws Error, opening with `name`, for what is no index, for one without tensors, and for files
// that are not plain names of files beside it: nothing outside of its folder can be named.
ShardIndex parse_shard_index(std::string_view text, const std::string& name);
std::string shard_index_json(const ShardIndex& index, int64_t total_bytes);

// One file of tensors, mapped: opening it reads no elements.
struct WeightFile {
  std::string path;
  std::vector<NamedTensor> tensors;
  std::map<std::string, std::string> metadata;  // of a safetensors file
};

// The tensors of a checkpoint, in one file or in several that an index ties together.
struct Weights {
  std::string source;  // the one file or the index: what opens an error's sentence
  std::vector<WeightFile> files;
};

// FOLDER/model.safetensors, the index of its shards, FOLDER/pytorch_model.bin or the index of its:
// the first of these that is there.
Weights open_weights(const std::string& folder);
// One of these files, whatever its name, or another in their formats. Each shard must hold just the
// tensors that the index says.
Weights open_weight_file(const std::string& path);

// Whether a folder's weights or their index are in a file so named, as transformers names them.
bool is_weight_file(std::string_view name);

}  // namespace elapse

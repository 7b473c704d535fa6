// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/weight_files.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "elapse/core/error.h"
#include "elapse/io/bytes.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"
#include "elapse/io/messages.h"
#include "elapse/io/pytorch.h"
#include "elapse/io/safetensors.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSafetensors = ".safetensors";
constexpr std::string_view kPyTorch = ".bin";
constexpr std::string_view kIndex = ".index.json";
// In the order transformers looks for them.
constexpr std::array<std::string_view, 4> kNames = {
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json"};

void check_plain_name(const std::string& file, const Json& value) {
  const bool plain = !file.empty() && file != "." && file != ".." && file.find('/') == file.npos &&
                     file.find('\\') == file.npos && file.find('\0') == file.npos;
  ELAPSE_CHECK(plain, "{}: expected the plain name of a file beside the index, found {}",
               value.where(), quote(file));
}

// Whether a file begins as safetensors do: with the length of a header in braces.
bool begins_as_safetensors(std::string_view bytes) {
  constexpr size_t kLengthBytes = 8;
  return bytes.substr(std::min(bytes.size(), kLengthBytes)).starts_with('{');
}

// By its name's ending; where that says nothing, by what the file begins with.
bool is_pytorch(const std::string& path) {
  constexpr size_t kShown = 24;
  if (path.ends_with(kSafetensors)) return false;
  if (path.ends_with(kPyTorch)) return true;
  const auto file = MappedFile::open(path);
  const std::string_view bytes = as_text(file->bytes());
  const bool is_zip = bytes.starts_with("PK");
  ELAPSE_CHECK(is_zip || begins_as_safetensors(bytes),
               "{}: expected tensors in a safetensors file, a pytorch_model.bin or an index of "
               "either (.index.json), found {}",
               path,
               bytes.empty() ? "an empty file"
                             : "a file that begins with " + quote(bytes.substr(0, kShown)));
  return is_zip;
}

WeightFile open_one(const std::string& path) {
  if (is_pytorch(path)) return {path, open_pytorch(path), {}};
  const SafeTensors file = open_safetensors(path);
  return {path, file.tensors(), file.metadata()};
}

// Holds a shard to the names that the index gives it.
void check_shard(const WeightFile& shard, std::set<std::string> expected,
                 const std::string& index) {
  for (const NamedTensor& t : shard.tensors) {
    ELAPSE_CHECK(expected.erase(t.name) == 1, "{}: tensor {} is in it, but {} does not say so",
                 shard.path, quote(t.name), index);
  }
  ELAPSE_CHECK(expected.empty(), "{}: tensor {} is missing, which {} says is in it", shard.path,
               quote(*expected.begin()), index);
}

std::vector<WeightFile> open_shards(const std::string& index_path) {
  const ShardIndex index = parse_shard_index(read_text(index_path), index_path);
  const std::string kind = index_path.substr(0, index_path.size() - kIndex.size());
  const std::string_view suffix = kind.ends_with(kSafetensors) ? kSafetensors : kPyTorch;
  std::vector<WeightFile> shards;
  for (const auto& [name, tensors] : index) {
    const std::string path = (fs::path(index_path).parent_path() / name).string();
    ELAPSE_CHECK(name.ends_with(suffix), "{}: expected files that end with {}, found {}",
                 index_path, suffix, quote(name));
    ELAPSE_CHECK(file_exists(path), "{}: the file {} that it names is missing", index_path,
                 quote(name));
    shards.push_back(open_one(path));
    check_shard(shards.back(), tensors, index_path);
  }
  return shards;
}

// "model-00001-of-00003.safetensors"
bool is_shard_of(std::string_view name, std::string_view start, std::string_view end) {
  constexpr std::string_view kNumbers = "-#####-of-#####";
  if (name.size() != start.size() + kNumbers.size() + end.size()) return false;
  if (!name.starts_with(start) || !name.ends_with(end)) return false;
  const auto fits = [](char c, char pattern) {
    return pattern == '#' ? c >= '0' && c <= '9' : c == pattern;
  };
  const std::string_view numbers = name.substr(start.size(), kNumbers.size());
  return std::equal(numbers.begin(), numbers.end(), kNumbers.begin(), fits);
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::string& name) {
  const Json json = Json::parse(text, name);
  const Json map = json.at("weight_map");
  ShardIndex index;
  for (const auto& [tensor, value] : map.members()) {
    const std::string file = value.text();
    if (!index.contains(file)) check_plain_name(file, value);
    index[file].insert(tensor);
  }
  ELAPSE_CHECK(!index.empty(), "{}: expected tensors, found none", map.where());
  return index;
}

std::string shard_index_json(const ShardIndex& index, int64_t total_bytes) {
  std::map<std::string_view, std::string_view> file_of;
  for (const auto& [file, tensors] : index) {
    for (const std::string& tensor : tensors) file_of[tensor] = file;
  }
  JsonWriter json;
  json.begin_object().key("metadata").begin_object().field("total_size", total_bytes).end_object();
  json.key("weight_map").begin_object();
  for (const auto& [tensor, file] : file_of) json.field(tensor, file);
  return json.end_object().end_object().text();
}

Weights open_weights(const std::string& folder) {
  for (const std::string_view name : kNames) {
    const std::string path = (fs::path(folder) / name).string();
    if (file_exists(path)) return open_weight_file(path);
  }
  fail(
      "{}: expected model.safetensors or pytorch_model.bin, whole or in shards with an index, "
      "found none of them",
      folder);
}

Weights open_weight_file(const std::string& path) {
  if (path.ends_with(kIndex)) return {path, open_shards(path)};
  return {path, {open_one(path)}};
}

bool is_weight_file(std::string_view name) {
  const bool whole_or_index = std::find(kNames.begin(), kNames.end(), name) != kNames.end();
  return whole_or_index || is_shard_of(name, "model", kSafetensors) ||
         is_shard_of(name, "pytorch_model", kPyTorch);
}

}  // namespace elapse

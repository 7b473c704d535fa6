// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/convert.h"

#include <algorithm>
#include <filesystem>

#include "elapse/core/convert.h"
#include "elapse/core/error.h"
#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfig = "config.json";
constexpr std::string_view kGeneration = "generation_config.json";
constexpr int64_t kPieceElements = int64_t{1} << 18;

std::vector<std::string> checkpoint_files_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;  // a folder that cannot be listed has none
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (is_checkpoint_file(name)) names.push_back(name);
  }
  return names;
}

void check_target(const fs::path& from, const fs::path& to, bool replace) {
  std::error_code error;
  ELAPSE_CHECK(!fs::equivalent(from, to, error), "{}: the folder to write to is the one read from",
               to.string());
  ELAPSE_CHECK(!file_exists((to / kResumeFile).string()),
               "{}: there is a training run, which would go on as another model's: expected a "
               "folder without {}",
               to.string(), kResumeFile);
  const std::vector<std::string> present = checkpoint_files_in(to);
  ELAPSE_CHECK(present.empty() || replace,
               "{}: there is a checkpoint or a part of one already ({})", to.string(),
               present.front());
}

// The lock of a folder that is made if there is none.
FolderLock lock_of(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", folder.string(), error.message());
  return FolderLock(folder.string());
}

// A folder within the one written to, which is locked, for files until all are whole. Gone, with
// what is in it, at the end of the scope, and so is a folder that was made for it and is still
// empty.
class Staging {
 public:
  explicit Staging(const fs::path& target)
      : target_(target),
        made_target_(!file_exists(target.string())),
        lock_(lock_of(target)),
        folder_(target / ".convert-tmp") {
    std::error_code error;
    fs::remove_all(folder_, error);  // of a process that was killed
    fs::create_directories(folder_, error);
    ELAPSE_CHECK(!error, "{}: cannot make a folder in it: {}", target.string(), error.message());
  }
  ~Staging() {
    std::error_code error;
    fs::remove_all(folder_, error);
    if (made_target_) fs::remove(target_, error);  // fails where files are in it
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  std::string path(std::string_view name) {
    names_.emplace_back(name);
    return (folder_ / name).string();
  }
  // Renames the files in the order their paths were asked for. Files of a checkpoint that were
  // there and have no successor go before the last, the configuration, and once the new ones are
  // there to stay.
  void publish();

 private:
  void publish(const std::string& name) const;

  fs::path target_;
  bool made_target_;
  FolderLock lock_;
  fs::path folder_;
  std::vector<std::string> names_;
};

void Staging::publish(const std::string& name) const {
  std::error_code error;
  fs::rename(folder_ / name, target_ / name, error);
  ELAPSE_CHECK(!error, "{}: cannot replace: {}", (target_ / name).string(), error.message());
}

void Staging::publish() {
  for (size_t i = 0; i + 1 < names_.size(); ++i) publish(names_[i]);
  sync_folder(target_);
  for (const std::string& old : checkpoint_files_in(target_)) {
    if (std::find(names_.begin(), names_.end(), old) != names_.end()) continue;
    std::error_code error;
    ELAPSE_CHECK(fs::remove(target_ / old, error) || !error, "{}: cannot remove: {}",
                 (target_ / old).string(), error.message());
  }
  publish(names_.back());
  sync_folder(target_);
}

struct Shard {
  std::vector<TensorToWrite> tensors;
  int64_t bytes = 0;
};

// Tensors in the order given, a new shard wherever the next would not fit. One too large for any
// shard has one of its own.
std::vector<Shard> shards_of(std::vector<TensorToWrite> tensors, int64_t max_bytes) {
  std::vector<Shard> shards(1);
  for (TensorToWrite& t : tensors) {
    const int64_t bytes = t.bytes();
    if (!shards.back().tensors.empty() && shards.back().bytes + bytes > max_bytes) {
      shards.emplace_back();
    }
    shards.back().bytes += bytes;
    shards.back().tensors.push_back(std::move(t));
  }
  return shards;
}

class Converter {
 public:
  Converter(const std::string& from, const ConvertOptions& options)
      : options_(options),
        from_(from),
        checkpoint_(open_checkpoint(from)),
        config_(checkpoint_.config.in_layout(options.layout.value_or(checkpoint_.config.layout))) {
    check_tied_head(checkpoint_);
    state_tokens();
    for (const NamedTensor& t : checkpoint_.tensors) by_name_.emplace(t.name, t.tensor);
  }

  void write_weights(Staging& staging);
  void write_companions(Staging& staging) const;
  void write_config(Staging& staging) const;

 private:
  void state_tokens();
  bool has_generation() const { return file_exists((from_ / kGeneration).string()); }
  std::vector<TensorToWrite> tensors();
  DType dtype_of(const FileTensor& t) const;
  void write_elements(FileWriter& file, const std::string& name, DType dtype);

  const ConvertOptions& options_;
  fs::path from_;
  Checkpoint checkpoint_;
  ModelConfig config_;
  std::map<std::string, Tensor> by_name_;
  int64_t done_ = 0;   // bytes written
  int64_t total_ = 0;  // bytes of all tensors as written
};

// The original layout's config.json has no words for the special tokens: a generation_config.json
// beside it has them, which generation reads first in both layouts.
void Converter::state_tokens() {
  if (!has_generation()) return;
  const std::string path = (from_ / kGeneration).string();
  const SpecialTokens beside =
      SpecialTokens::parse(Json::parse(read_text(path), path), config_.vocab());
  const bool none = config_.special_tokens == SpecialTokens{};
  if (checkpoint_.config.layout == Layout::original && none) config_.special_tokens = beside;
  const SpecialTokens& all = config_.special_tokens;
  const bool lost = (beside.bos.empty() && !all.bos.empty()) ||
                    (beside.eos.empty() && !all.eos.empty()) ||
                    (beside.pad.empty() && !all.pad.empty());
  ELAPSE_CHECK(config_.layout == Layout::transformers || !lost,
               "{}: expected the bos_token_id, eos_token_id and pad_token_id of config.json, which "
               "the original layout has no fields for, found not all of them",
               path);
}

std::vector<TensorToWrite> Converter::tensors() {
  std::vector<TensorToWrite> list;
  for (const FileTensor& t : file_tensors(config_, names_of(config_, config_.layout))) {
    const DType dtype = dtype_of(t);
    list.push_back({t.name, dtype, t.shape, [this, parts = t.parameters, dtype](FileWriter& file) {
                      for (const std::string& name : parts) write_elements(file, name, dtype);
                    }});
    total_ += list.back().bytes();
  }
  return list;
}

// That of all parts, or float32 where they differ.
DType Converter::dtype_of(const FileTensor& t) const {
  const DType first = by_name_.at(t.parameters.front()).dtype();
  const bool same =
      std::all_of(t.parameters.begin(), t.parameters.end(),
                  [&](const std::string& name) { return by_name_.at(name).dtype() == first; });
  return options_.dtype.value_or(same ? first : DType::f32);
}

void Converter::write_elements(FileWriter& file, const std::string& name, DType dtype) {
  const Tensor& t = by_name_.at(name);
  const auto* from = static_cast<const std::byte*>(t.raw());
  std::vector<std::byte> piece;
  for (int64_t i = 0; i < t.numel(); i += kPieceElements) {
    const int64_t count = std::min(kPieceElements, t.numel() - i);
    piece.resize(static_cast<size_t>(count * size_of(dtype)));
    const int64_t overflows =
        convert_elements(t.dtype(), from + i * size_of(t.dtype()), dtype, piece.data(), count);
    ELAPSE_CHECK(overflows == 0, "{}: tensor \"{}\" holds finite values too large for {}",
                 checkpoint_.source, name_in_file(name, checkpoint_.names), name_of(dtype));
    file.write(piece);
    done_ += static_cast<int64_t>(piece.size());
    options_.progress(done_, total_);
  }
}

void Converter::write_weights(Staging& staging) {
  const std::vector<Shard> shards = shards_of(tensors(), options_.max_shard_bytes);
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (shards.size() == 1) {
    return stream_safetensors(staging.path("model.safetensors"), shards[0].tensors, metadata);
  }
  ShardIndex index;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const TensorToWrite& t : shards[i].tensors) index[name].insert(t.name);
    stream_safetensors(staging.path(name), shards[i].tensors, metadata);
  }
  write_file_atomically(staging.path("model.safetensors.index.json"),
                        [&](FileWriter& file) { file.write(shard_index_json(index, total_)); });
}

void Converter::write_config(Staging& staging) const {
  const DType dtype = options_.dtype.value_or(by_name_.at("backbone.embedding.weight").dtype());
  write_file_atomically(staging.path(kConfig),
                        [&](FileWriter& file) { file.write(config_.json(dtype)); });
}

void Converter::write_companions(Staging& staging) const {
  for (const std::string& name : companion_files()) {
    const std::string from = (from_ / name).string();
    if (file_exists(from)) copy_file(from, staging.path(name));
  }
  if (config_.layout == Layout::transformers || has_generation() ||
      config_.special_tokens == SpecialTokens{}) {
    return;
  }
  JsonWriter json;
  config_.special_tokens.write(json.begin_object());
  write_file_atomically(staging.path(kGeneration),
                        [&](FileWriter& file) { file.write(json.end_object().text()); });
}

}  // namespace

void convert_checkpoint(const std::string& from, const std::string& to,
                        const ConvertOptions& options) {
  Converter converter(from, options);
  check_target(from, to, options.replace);  // before anything is made
  Staging staging(to);
  check_target(from, to, options.replace);  // nobody else can make it otherwise any more
  converter.write_weights(staging);
  converter.write_companions(staging);
  converter.write_config(staging);
  staging.publish();
}

}  // namespace elapse

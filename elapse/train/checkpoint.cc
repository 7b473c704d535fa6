// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/checkpoint.h"

#include <filesystem>
#include <map>
#include <optional>

#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"
#include "elapse/model/checkpoint_files.h"
#include "elapse/ops/pointwise.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefixM = "adamw.m.";
constexpr std::string_view kPrefixV = "adamw.v.";
constexpr std::string_view kUpdates = "adamw.updates";
const std::string kSettingPrefix = "elapse.";

bool is_state(std::string_view name) { return name.starts_with("adamw."); }

std::string prefixed(std::string_view prefix, std::string_view name) {
  return fmt::format("{}{}", prefix, name);
}

// None where the checkpoint does not say it. Those of earlier versions name no mixer but Mamba-2.
std::optional<std::string> saved_setting(const std::map<std::string, std::string>& saved,
                                         const std::string& name) {
  const auto found = saved.find(kSettingPrefix + name);
  if (found != saved.end()) return found->second;
  return name == "mixer" ? std::optional<std::string>("mamba") : std::nullopt;
}

void check_settings(const std::string& path, const std::map<std::string, std::string>& saved,
                    const Settings& settings) {
  ELAPSE_CHECK(saved_setting(saved, "data"), "{}: expected a training checkpoint, found none",
               path);
  for (const auto& [name, value] : settings) {
    const auto before = saved_setting(saved, name);
    const bool is_later = name == "model" || (name == "dtype" && value == name_of(DType::f32));
    if (!before && is_later) continue;  // a run of an earlier version
    ELAPSE_CHECK(before == value,
                 "{}: the run cannot be resumed with other settings: \"{}\" was {}, found \"{}\"",
                 path, name, before ? fmt::format("\"{}\"", *before) : "none", value);
  }
}

void set_moment(Device& device, const std::string& path, const SafeTensors& file,
                const std::string& name, const Tensor& into) {
  const Tensor& from = file.at(name);
  check_tensor(path, name, from, into.dtype(), into.shape());
  copy(device, {device.upload_bytes(from.raw(), from.dtype(), from.shape()), into});
}

int64_t updates_in(const std::string& path, const SafeTensors& file) {
  const Tensor& t = file.at(kUpdates);
  check_tensor(path, kUpdates, t, DType::i64, {1});
  const int64_t updates = t.data<int64_t>()[0];
  ELAPSE_CHECK(updates >= 0, "{}: tensor \"{}\": expected 0 or more updates, found {}", path,
               kUpdates, updates);
  return updates;
}

}  // namespace

std::string resume_path(const std::string& folder) {
  return (fs::path(folder) / kResumeFile).string();
}

bool has_checkpoint(const std::string& folder) {
  std::error_code none;
  return fs::exists(resume_path(folder), none);
}

FolderLock prepare_run_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", folder, error.message());
  FolderLock lock(folder);
  for (const char* name : {kResumeFile, "model.safetensors", "config.json"}) {
    remove_leftovers((fs::path(folder) / name).string());
  }
  return lock;
}

void save_checkpoint(const std::string& folder, const LanguageModel& model,
                     const AdamWOptimizer& optimizer, const Settings& settings) {
  Device& device = model.device();
  std::vector<NamedTensor> tensors = host_parameters(model);
  for (size_t i = 0; i < optimizer.moments().size(); ++i) {
    const std::string& name = model.parameters().all()[i].name;
    tensors.push_back({prefixed(kPrefixM, name), to_host(device, optimizer.moments()[i].m)});
    tensors.push_back({prefixed(kPrefixV, name), to_host(device, optimizer.moments()[i].v)});
  }
  int64_t updates = optimizer.updates();
  tensors.push_back({std::string(kUpdates), Tensor::wrap(&updates, DType::i64, {1})});
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  for (const auto& [name, value] : settings) metadata[kSettingPrefix + name] = value;
  write_safetensors(resume_path(folder), std::move(tensors), metadata);
  save_model(model, folder);
}

void load_checkpoint(const std::string& folder, const LanguageModel& model,
                     AdamWOptimizer& optimizer, const Settings& settings) {
  const std::string path = resume_path(folder);
  const SafeTensors file = open_safetensors(path);
  check_settings(path, file.metadata(), settings);
  const int64_t updates = updates_in(path, file);
  for (size_t i = 0; i < optimizer.moments().size(); ++i) {
    const auto& [m, v] = optimizer.moments()[i];
    const std::string& name = model.parameters().all()[i].name;
    set_moment(model.device(), path, file, prefixed(kPrefixM, name), m);
    set_moment(model.device(), path, file, prefixed(kPrefixV, name), v);
  }
  std::vector<NamedTensor> weights;
  for (const NamedTensor& t : file.tensors()) {
    if (!is_state(t.name)) weights.push_back(t);
  }
  set_parameters(model, weights, path);
  optimizer.set_updates(updates);
}

}  // namespace elapse

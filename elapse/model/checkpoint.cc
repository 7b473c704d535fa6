// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/checkpoint.h"

#include <filesystem>
#include <map>

#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

// `t` in the parameter's dtype and on its device.
Tensor converted(Device& device, const Tensor& t, DType dtype) {
  if (t.dtype() == dtype) return device.upload_bytes(t.raw(), dtype, t.shape());
  std::vector<double> values(static_cast<size_t>(t.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] =
        t.dtype() == DType::f32 ? static_cast<double>(t.data<float>()[i]) : t.data<double>()[i];
  }
  if (dtype == DType::f64) return device.upload(values, t.shape());
  return device.upload(std::vector<float>(values.begin(), values.end()), t.shape());
}

void set_parameter(Device& device, const Parameter& parameter, const Tensor& t,
                   const std::string& source) {
  const Tensor& into = parameter.var.value();
  ELAPSE_CHECK(t.shape() == into.shape(), "{}: tensor \"{}\": expected shape {}, found {}", source,
               parameter.name, into.shape().str(), t.shape().str());
  ELAPSE_CHECK(t.dtype() == DType::f32 || t.dtype() == DType::f64,
               "{}: tensor \"{}\": expected f32 or f64, found {}", source, parameter.name,
               name_of(t.dtype()));
  copy(device, {converted(device, t, into.dtype()), into});
}

}  // namespace

void check_tensor(const std::string& path, std::string_view name, const Tensor& found, DType dtype,
                  Shape shape) {
  ELAPSE_CHECK(found.dtype() == dtype && found.shape() == shape,
               "{}: tensor \"{}\": expected {} {}, found {} {}", path, name, name_of(dtype),
               shape.str(), name_of(found.dtype()), found.shape().str());
}

void set_parameters(const LanguageModel& model, const std::vector<NamedTensor>& tensors,
                    const std::string& source) {
  std::map<std::string_view, const Tensor*> by_name;
  for (const auto& [name, tensor] : tensors) {
    by_name[name] = &tensor;
  }
  if (model.config().tied_head) by_name.erase("lm_head.weight");
  for (const Parameter& p : model.parameters().all()) {
    const auto found = by_name.find(p.name);
    ELAPSE_CHECK(found != by_name.end(), "{}: tensor \"{}\" {} is missing", source, p.name,
                 p.var.value().shape().str());
    set_parameter(model.device(), p, *found->second, source);
    by_name.erase(found);
  }
  ELAPSE_CHECK(by_name.empty(), "{}: tensor \"{}\" is none the model has", source,
               by_name.begin()->first);
}

std::unique_ptr<LanguageModel> load_model(Device& device, const std::string& directory,
                                          DType dtype) {
  const Checkpoint checkpoint = open_checkpoint(directory);
  check_tied_head(checkpoint);
  auto model = std::make_unique<LanguageModel>(device, checkpoint.config, dtype, 0);
  set_parameters(*model, checkpoint.tensors(), checkpoint.source);
  return model;
}

Tensor to_host(Device& device, const Tensor& t) {
  if (device.host_memory()) return t;
  auto bytes = std::make_shared<std::vector<char>>(static_cast<size_t>(t.bytes()));
  device.download_bytes(t, bytes->data());
  return Tensor::wrap(bytes->data(), t.dtype(), t.shape(), bytes);
}

std::vector<NamedTensor> host_parameters(const LanguageModel& model) {
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : model.parameters().all()) {
    tensors.push_back({p.name, to_host(model.device(), p.var.value())});
  }
  return tensors;
}

void save_model(const LanguageModel& model, const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", directory, error.message());
  std::vector<NamedTensor> tensors = host_parameters(model);
  for (NamedTensor& t : tensors) t.name = name_in_layout(t.name, model.config().layout);
  const fs::path folder = directory;
  write_safetensors((folder / "model.safetensors").string(), tensors, {{"format", "pt"}});
  write_file_atomically((folder / "config.json").string(),
                        [&](FileWriter& file) { file.write(model.config().json(model.dtype())); });
}

}  // namespace elapse

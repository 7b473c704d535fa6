// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>

#include "elapse/core/convert.h"
#include "elapse/core/parallel.h"
#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

// `t` in this dtype and on the device.
Tensor converted(Device& device, const Tensor& t, DType dtype) {
  if (t.dtype() == dtype) return device.upload_bytes(t.raw(), dtype, t.shape());
  std::vector<char> bytes(static_cast<size_t>(t.numel() * size_of(dtype)));
  convert_elements(t.dtype(), t.raw(), dtype, bytes.data(), t.numel());
  return device.upload_bytes(bytes.data(), dtype, t.shape());
}

// A first token reads every weight.
void page_in_weights(const Device& device, const std::vector<NamedTensor>& tensors) {
  constexpr size_t kPart = size_t{16} << 20;
  std::vector<std::span<const std::byte>> parts;
  for (const NamedTensor& t : tensors) {
    std::span<const std::byte> rest(static_cast<const std::byte*>(t.tensor.raw()),
                                    static_cast<size_t>(t.tensor.bytes()));
    for (; rest.size() > kPart; rest = rest.subspan(kPart)) parts.push_back(rest.first(kPart));
    parts.push_back(rest);
  }
  parallel_for(static_cast<int64_t>(parts.size()), device.threads(),
               [&](int64_t i) { page_in(parts[static_cast<size_t>(i)]); });
}

void set_parameter(Device& device, const Parameter& parameter, const Tensor& t,
                   const std::string& source) {
  const Tensor& into = parameter.var.value();
  check_parameter(source, parameter.name, into.shape(), t);
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

std::unique_ptr<LanguageModel> load_model(Device& device, const std::string& directory, DType dtype,
                                          WeightMemory memory) {
  const Checkpoint checkpoint = open_checkpoint(directory);
  check_tied_head(checkpoint);
  std::map<std::string, Tensor, std::less<>> tensors;
  for (const NamedTensor& t : checkpoint.tensors) tensors.emplace(t.name, t.tensor);
  const DType wide = wide_dtype(dtype);
  const bool rounds = dtype != wide && memory != WeightMemory::trained;
  const bool keep_16_bits = dtype == DType::f32 && memory != WeightMemory::trained;
  const bool any_16_bits = std::any_of(
      tensors.begin(), tensors.end(), [](const auto& t) { return size_of(t.second.dtype()) == 2; });
  const bool mapped = memory == WeightMemory::mapped && device.host_memory();
  if (mapped) page_in_weights(device, checkpoint.tensors);
  const auto value = [&](const std::string& name, const Shape&, ParameterUse use) {
    const Tensor& t = tensors.at(name);  // open_checkpoint has checked it
    const bool as_it_is = keep_16_bits && use == ParameterUse::matrix &&
                          (t.dtype() == DType::f16 || t.dtype() == DType::bf16);
    const DType narrow_or_wide = rounds && use == ParameterUse::matrix ? dtype : wide;
    const DType wanted = as_it_is ? t.dtype() : narrow_or_wide;
    return mapped && t.dtype() == wanted ? t : converted(device, t, wanted);
  };
  const bool needs_grad = !mapped && !rounds && !(keep_16_bits && any_16_bits);
  return std::make_unique<LanguageModel>(device, checkpoint.config, dtype,
                                         Parameters::Source{value, needs_grad});
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

namespace {

// Rows of all parts, one after another, on the host.
Tensor joined(const std::vector<Tensor>& parts, Shape shape) {
  auto bytes = std::make_shared<std::vector<char>>();
  for (const Tensor& part : parts) {
    const auto* from = static_cast<const char*>(part.raw());
    bytes->insert(bytes->end(), from, from + part.bytes());
  }
  return Tensor::wrap(bytes->data(), parts.front().dtype(), shape, bytes);
}

// A model's parameters as files of its layout have them.
std::vector<NamedTensor> in_file_form(const std::vector<NamedTensor>& parameters,
                                      const ModelConfig& config) {
  std::map<std::string_view, Tensor> by_name;
  for (const NamedTensor& t : parameters) by_name.emplace(t.name, t.tensor);
  std::vector<NamedTensor> tensors;
  for (const FileTensor& t : file_tensors(config, names_of(config, config.layout))) {
    std::vector<Tensor> parts;
    for (const std::string& name : t.parameters) parts.push_back(by_name.at(name));
    tensors.push_back({t.name, parts.size() == 1 ? parts.front() : joined(parts, t.shape)});
  }
  return tensors;
}

}  // namespace

void save_model(const LanguageModel& model, const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", directory, error.message());
  const std::vector<NamedTensor> tensors = in_file_form(host_parameters(model), model.config());
  const fs::path folder = directory;
  write_safetensors((folder / "model.safetensors").string(), tensors, {{"format", "pt"}});
  write_file_atomically((folder / "config.json").string(),
                        [&](FileWriter& file) { file.write(model.config().json(model.dtype())); });
}

}  // namespace elapse

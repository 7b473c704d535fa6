// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/checkpoint.h"

#include <filesystem>
#include <map>

#include "elapse/io/file.h"
#include "elapse/io/pytorch.h"
#include "elapse/io/safetensors.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOriginalEmbedding = "backbone.embedding.weight";
constexpr std::string_view kTransformersEmbedding = "backbone.embeddings.weight";

std::vector<NamedTensor> read_tensors(const fs::path& directory, std::string& path) {
  path = (directory / "model.safetensors").string();
  if (fs::exists(path)) return open_safetensors(path).tensors();
  path = (directory / "pytorch_model.bin").string();
  ELAPSE_CHECK(fs::exists(path),
               "{}: expected model.safetensors or pytorch_model.bin, found "
               "neither",
               directory.string());
  return open_pytorch(path);
}

// Holds the configuration to the file's tensors before a model of its sizes is made, so that a
// model is no larger than the file that fills it.
void check_sizes(const ModelConfig& c, const std::vector<NamedTensor>& tensors,
                 const std::string& source) {
  std::map<std::string, Shape, std::less<>> shapes;
  for (const NamedTensor& t : tensors) {
    shapes[t.name == kTransformersEmbedding ? std::string(kOriginalEmbedding) : t.name] =
        t.tensor.shape();
  }
  const auto expect = [&](const std::string& name, Shape shape) {
    const auto found = shapes.find(name);
    ELAPSE_CHECK(found != shapes.end(), "{}: tensor \"{}\" {} is missing", source, name,
                 shape.str());
    ELAPSE_CHECK(found->second == shape, "{}: tensor \"{}\": expected shape {}, found {}", source,
                 name, shape.str(), found->second.str());
  };
  expect(std::string(kOriginalEmbedding), {c.vocab(), c.d_model});
  if (!c.tied_head) expect("lm_head.weight", {c.vocab(), c.d_model});
  for (int64_t i = 0; i < c.n_layers; ++i) {
    const std::string mixer = fmt::format("backbone.layers.{}.mixer.", i);
    expect(mixer + "A_log", {c.d_inner, c.d_state});
    expect(mixer + "in_proj.weight", {2 * c.d_inner, c.d_model});
    expect(mixer + "conv1d.weight", {c.d_inner, 1, c.d_conv});
    expect(mixer + "x_proj.weight", {c.dt_rank + 2 * c.d_state, c.d_inner});
    expect(mixer + "dt_proj.weight", {c.d_inner, c.dt_rank});
    expect(mixer + "out_proj.weight", {c.d_model, c.d_inner});
  }
}

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
    by_name[name == kTransformersEmbedding ? kOriginalEmbedding : std::string_view(name)] = &tensor;
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
  const std::string config_path = (fs::path(directory) / "config.json").string();
  ELAPSE_CHECK(fs::exists(config_path),
               "{}: expected a model's folder with config.json, found none", directory);
  const auto config = ModelConfig::parse(Json::parse(read_text(config_path), config_path));
  std::string path;
  const std::vector<NamedTensor> tensors = read_tensors(directory, path);
  check_sizes(config, tensors, path);
  auto model = std::make_unique<LanguageModel>(device, config, dtype, 0);
  set_parameters(*model, tensors, path);
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
  if (model.config().layout == Layout::transformers) {
    for (NamedTensor& t : tensors) {
      if (t.name == kOriginalEmbedding) t.name = kTransformersEmbedding;
    }
  }
  const fs::path folder = directory;
  write_safetensors((folder / "model.safetensors").string(), tensors, {{"format", "pt"}});
  write_file_atomically((folder / "config.json").string(),
                        [&](FileWriter& file) { file.write(model.config().json()); });
}

}  // namespace elapse

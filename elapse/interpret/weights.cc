// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/weights.h"

#include "elapse/core/convert.h"

namespace elapse {

std::vector<double> weight_values(Device& device, const Tensor& weight) {
  std::vector<std::byte> bytes(static_cast<size_t>(weight.bytes()));
  device.download_bytes(weight, bytes.data());
  std::vector<double> values(static_cast<size_t>(weight.numel()));
  convert_elements(weight.dtype(), bytes.data(), DType::f64, values.data(), weight.numel());
  return values;
}

std::vector<double> weight_values(const LanguageModel& model, const std::string& name) {
  const Parameter* parameter = model.parameters().find(name);
  ELAPSE_CHECK(parameter != nullptr, "the model has no parameter \"{}\"", name);
  return weight_values(model.device(), parameter->var.value());
}

}  // namespace elapse

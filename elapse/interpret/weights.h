// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/model/language_model.h"

namespace elapse {

// A parameter's elements in float64 on the host, whatever its dtype. Throws Error where the model
// has none of this name (in the original layout).
std::vector<double> weight_values(const LanguageModel& model, const std::string& name);
std::vector<double> weight_values(Device& device, const Tensor& weight);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/core/tensor.h"

namespace elapse {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

}  // namespace elapse

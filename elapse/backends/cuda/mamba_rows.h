// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/runtime.h"
#include "elapse/ops/mamba_step.h"

namespace elapse::cuda {

// mamba_step of some rows, where all is aligned; else gives false.
bool mamba_step_of_some(Device& device, const MambaStep& args);

}  // namespace elapse::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/ops/device.h"

namespace elapse {

// Whether the backend is in this program and finds what it runs on.
inline bool can_open(const std::string& name) {
  try {
    Device device(name, 1);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace elapse

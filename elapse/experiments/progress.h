// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace elapse {

// What a long run is doing: `done` of `total`, and a word on how it goes.
struct ExperimentProgress {
  std::string stage;  // "train", "test at 65536"
  int64_t done = 0;
  int64_t total = 0;
  std::string note;  // "loss 0.123"
};
using OnExperimentProgress = std::function<void(const ExperimentProgress&)>;  // may throw to stop

}  // namespace elapse

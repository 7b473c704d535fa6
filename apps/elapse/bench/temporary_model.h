// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <string>

#include "elapse/core/dtype.h"
#include "elapse/model/config.h"

namespace elapse::bench {

// A checkpoint with random weights in a folder of its own, which goes with it. Throws Error where
// the temporary folder's disk has too little room.
class TemporaryModel {
 public:
  TemporaryModel(const ModelConfig& config, DType dtype);  // f32 or bf16
  ~TemporaryModel();
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;

  std::string folder() const { return folder_.string(); }

 private:
  std::filesystem::path folder_;
};

}  // namespace elapse::bench

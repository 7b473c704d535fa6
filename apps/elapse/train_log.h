// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fstream>
#include <optional>
#include <string>

#include "elapse/train/trainer.h"

namespace elapse {

// Makes the folder that a file lies in, if there is none.
void make_folder_of(const std::string& path);

// A file with one JSON object for each step of a run, in their order.
class TrainLog {
 public:
  // Keeps what the file says of the run's first `steps_done` steps and begins after it: steps that
  // a killed process had logged but not saved are logged again.
  TrainLog(std::string path, int64_t steps_done);

  void write(const StepReport& step, const std::optional<Evaluation>& evaluation);

 private:
  std::string path_;
  std::ofstream out_;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/io/file.h"
#include "elapse/model/language_model.h"
#include "elapse/optim/adamw.h"
#include "elapse/train/config.h"

// A run's folder. resume.safetensors alone decides what a run resumes from: weights, moments,
// the number of updates, and the settings they came about under. Beside it, for everybody else,
// lies the model in a published layout, config.json and model.safetensors.
namespace elapse {

std::string resume_path(const std::string& folder);
bool has_checkpoint(const std::string& folder);

// Makes the folder if there is none, and removes what a killed process left half-written in it.
// Nobody else can prepare it while the lock is held: Error.
[[nodiscard]] FolderLock prepare_run_folder(const std::string& folder);

// Each file is replaced wholly or not at all, resume.safetensors first.
void save_checkpoint(const std::string& folder, const LanguageModel& model,
                     const AdamWOptimizer& optimizer, const Settings& settings);

// Sets weights, moments and updates. Throws Error naming the first setting that differs from those
// the checkpoint was saved under, or the tensor that is missing or of another shape.
void load_checkpoint(const std::string& folder, const LanguageModel& model,
                     AdamWOptimizer& optimizer, const Settings& settings);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/comparison.h"

namespace elapse {

int64_t longest_trained(const TrainConfig& train);  // of its sequences, tokens

// Induction heads (Gu and Dao, 2023, section 4.1.2, appendix E.1 and Table 11): models of two
// layers learn to recall what followed a special token, and are tested at lengths up to 2^20.
struct InductionSettings {
  struct Test {
    int64_t length = 0;
    int64_t sequences = 0;
  };

  std::vector<ModelConfig> models;  // of different mixers
  TrainConfig train;
  std::vector<Test> tests;
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  // Two layers of d_model 64, as published for Mamba; the rest as task_model.h says for sequences
  // of the 256 tokens that published models are trained on.
  static ModelConfig model_of(MixerKind mixer);
  static InductionSettings quick();  // minutes on two cores
  static InductionSettings full();   // the published protocol

  std::string unlike_published() const;  // a sentence; empty: nothing differs
};

struct InductionResult {
  // The step sizes of one sequence, mean over channels (heads, in Mamba-2) and of the channel that
  // opens most at the token after the prefix, against its own mean.
  struct StepSizes {
    int64_t layer = 0;
    int64_t channel = 0;
    std::vector<double> mean;       // (len)
    std::vector<double> selective;  // (len)
  };

  Comparison comparison;  // a run's tests are those of the settings
  // Of the first model that has a step size, from the first seed:
  std::string looked_at;              // "Mamba"; empty: there is none
  int64_t prefix = 0;                 // where it stands in the sequence of `step_sizes`
  std::vector<StepSizes> step_sizes;  // by layer
};

// Folders and progress: runs.h.
InductionResult run_induction(Device& device, const InductionSettings& settings,
                              const std::string& folder, const OnExperimentProgress& progress);
// The folder of the first model, from the first seed.
std::string induction_model_folder(const InductionSettings& settings, const std::string& folder);

// Ours beside the published rows.
Table induction_table(const InductionSettings& settings, const InductionResult& result);
Plot induction_accuracy_plot(const InductionSettings& settings, const InductionResult& result);
Report induction_report(const InductionSettings& settings, const InductionResult& result);
std::string induction_json(const InductionSettings& settings, const InductionResult& result);

}  // namespace elapse

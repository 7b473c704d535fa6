// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/progress.h"
#include "elapse/model/language_model.h"
#include "elapse/report/plot.h"
#include "elapse/report/report.h"
#include "elapse/report/table.h"
#include "elapse/train/config.h"

namespace elapse {

// Induction heads (Gu and Dao, 2023, section 4.1.2, appendix E.1 and Table 11): a model of two
// layers learns to recall what followed a special token, and is tested at lengths up to 2^20.
struct InductionSettings {
  struct Test {
    int64_t length = 0;
    int64_t sequences = 0;
  };

  ModelConfig model;
  TrainConfig train;
  std::vector<Test> tests;
  uint64_t seed = 1;

  // Two layers of d_model 64, as published for Mamba; Mamba-2 with 8 heads of 16 channels, 32
  // states.
  static ModelConfig model_of(MixerKind mixer);
  static InductionSettings quick();  // minutes on two cores
  static InductionSettings full();   // the published protocol

  int64_t longest_trained() const;
  std::string unlike_published() const;  // a sentence; empty: nothing that matters
};

struct InductionResult {
  struct Row {
    int64_t length = 0;
    int64_t right = 0;
    int64_t sequences = 0;
    double accuracy() const { return static_cast<double>(right) / static_cast<double>(sequences); }
  };
  // The step sizes of one sequence, mean over channels (heads, in Mamba-2) and of the channel that
  // opens most at the token after the prefix, against its own mean.
  struct StepSizes {
    int64_t layer = 0;
    int64_t channel = 0;
    std::vector<double> mean;       // (len)
    std::vector<double> selective;  // (len)
  };

  std::vector<double> losses;  // (steps), nats
  std::vector<Row> rows;
  int64_t prefix = 0;                 // where it stands in the sequence of `step_sizes`
  std::vector<StepSizes> step_sizes;  // by layer
  int64_t parameters = 0;
  double training_seconds = 0;
  double testing_seconds = 0;
  std::string device;
};

struct InductionRun {
  InductionResult result;
  std::unique_ptr<LanguageModel> model;
};
InductionRun run_induction(Device& device, const InductionSettings& settings,
                           const OnExperimentProgress& progress);

// Ours beside the published rows.
Table induction_table(const InductionSettings& settings, const InductionResult& result);
Plot induction_accuracy_plot(const InductionSettings& settings, const InductionResult& result);
Report induction_report(const InductionSettings& settings, const InductionResult& result);
std::string induction_json(const InductionSettings& settings, const InductionResult& result);

}  // namespace elapse

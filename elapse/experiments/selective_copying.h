// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/experiments/comparison.h"

namespace elapse {

// Selective copying (Gu and Dao, 2023, section 4.1.1, appendix E.1 and Table 1): models of two
// layers learn to repeat the tokens that stood among noise.
struct SelectiveCopyingSettings {
  std::vector<MixerKind> mixers;
  int64_t d_model = 64;
  int64_t n_layers = 2;
  int64_t length = 0;  // of a sequence, markers included
  int64_t data_tokens = 16;
  TrainConfig train;
  std::vector<double> peak_lrs;  // of which each model shows what it learned with the best, chosen
                                 // on other held-out sequences than are shown
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  static SelectiveCopyingSettings quick();  // a few minutes a mixer on two cores
  static SelectiveCopyingSettings full();   // the published protocol

  std::string unlike_published() const;  // a sentence; empty: nothing differs
};

Comparison run_selective_copying(Device& device, const SelectiveCopyingSettings& settings,
                                 const std::string& folder, const OnExperimentProgress& progress);

// Ours below the published rows.
Table selective_copying_table(const Comparison& comparison);
Report selective_copying_report(const SelectiveCopyingSettings& settings,
                                const Comparison& comparison);

}  // namespace elapse

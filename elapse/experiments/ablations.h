// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/experiments/comparison.h"

namespace elapse {

// What of Mamba matters (Gu and Dao, 2023, section 4.6.2): which of dt, B and C depend on the
// token, the gate, and the number of states with B and C constant and selective; and of S4D,
// whether A is real or complex. On a text, byte by byte.
struct AblationSettings {
  std::string text;       // its bytes
  std::string text_name;  // opens the sentences of errors
  int64_t d_model = 0;
  int64_t n_layers = 0;
  std::vector<int64_t> d_states;  // 16, at which selection is compared, among them
  int64_t test_length = 1024;
  TrainConfig train;
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  static AblationSettings quick();  // a few minutes on two cores, without a text
  static AblationSettings full();   // hours
};

Comparison run_ablations(Device& device, const AblationSettings& settings,
                         const std::string& folder, const OnExperimentProgress& progress);

std::vector<Table> ablation_tables(const AblationSettings& settings, const Comparison& comparison);
Report ablation_report(const AblationSettings& settings, const Comparison& comparison);
std::string ablation_json(const AblationSettings& settings, const Comparison& comparison);

}  // namespace elapse

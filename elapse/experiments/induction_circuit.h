// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/progress.h"
#include "elapse/interpret/metrics.h"
#include "elapse/interpret/scrubbing.h"
#include "elapse/report/report.h"
#include "elapse/report/table.h"

namespace elapse {

// The circuit by which a model recalls what followed the prefix (experiments/induction.h trains
// one), taken apart: where the answer is kept, which token writes it, and what hypotheses of who
// reads whom explain.
struct InductionCircuitSettings {
  int64_t length = 64;
  int64_t sequences = 128;  // held out
  int64_t offsets = 6;      // tokens from the prefix on whose states are swapped
  int64_t rounds = 20;      // of scrubbing
  uint64_t seed = 1;
};

struct InductionCircuit {
  struct Swap {
    int64_t layer, offset;  // the state after the token so many after the prefix
    double swapped;         // share of pairs that then say the other sequence's answer
    double kept;            // and their own
  };
  struct Attention {  // of the last token, mean share over sequences (sizes, mean over channels)
    int64_t layer;
    std::vector<double> at_offset;  // on the tokens from the prefix on
    double elsewhere;
  };
  struct Hypothesis {
    std::string name, text;
    ScrubResult result;
  };

  double accuracy = 0;  // on the sequences
  TaskScore task = {};  // against the other sequence's answer
  std::vector<Swap> swaps;
  std::vector<Attention> attention;
  std::vector<Hypothesis> hypotheses;
};
// Throws Error for a model that is not of the task's 16 classes. A model that answers less than
// 95 % is not taken apart: the parts after `task` stay empty.
InductionCircuit run_induction_circuit(const LanguageModel& model,
                                       const InductionCircuitSettings& settings,
                                       const OnExperimentProgress& progress);

std::vector<Table> induction_circuit_tables(const InductionCircuit& found);
std::string induction_circuit_json(const InductionCircuit& found);
Report induction_circuit_report(const InductionCircuitSettings& settings,
                                const InductionCircuit& found);

}  // namespace elapse

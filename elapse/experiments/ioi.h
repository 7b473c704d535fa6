// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "elapse/data/ioi.h"
#include "elapse/experiments/progress.h"
#include "elapse/interpret/circuit_quality.h"
#include "elapse/interpret/metrics.h"
#include "elapse/interpret/patching.h"
#include "elapse/report/report.h"
#include "elapse/report/table.h"
#include "elapse/train/config.h"

namespace elapse {

// Indirect-object identification (Wang et al., 2022): a model trained here until it does the task,
// its circuit searched for and measured as there, with means and with resampling, and prompts in
// which a name stands once more.
struct IoiSettings {
  ModelConfig model;
  TrainConfig train;
  IoiLists lists;
  int64_t prompts = 64;         // held out, that the circuit is searched and measured on
  int64_t counterfactuals = 8;  // that a mean is over
  double threshold = 0.02;      // of ACDC, as a share of the empty circuit's KL
  double enough = 0.1;          // of the layers' circuit: so much of the empty one's KL may be left
  DType activations = DType::f32;  // what models compute in
  uint64_t seed = 1;

  static IoiSettings quick(const IoiLists& lists = IoiLists::own());
};

struct IoiResult {
  struct Knockout {             // how a node that is not in the circuit is knocked out
    std::string how;            // "mean", "resample"
    double empty = 0;           // F of the empty circuit: what leaks, where it is not 0
    double empty_absolute = 0;  // |F|
    double empty_kl = 0;
    NodeSet layers;        // the circuit found, nodes of layers
    TaskScore score = {};  // its
    Faithfulness faithfulness = {};
    Completeness completeness = {};
    std::vector<Minimality> minimality;
  };
  struct Adversarial {
    std::string name;
    int64_t prompts = 0;
    TaskScore score = {};
  };

  std::vector<double> losses;              // (steps), nats
  TaskScore whole = {}, by_order[2] = {};  // held-out: all; BABA, ABBA
  std::vector<Edge> edges;                 // that ACDC keeps, counterfactuals being the other run
  TaskScore edges_score = {};
  Faithfulness edges_faithfulness = {};
  std::vector<Knockout> knockouts;
  PatchingMap patching;  // of the stream, counterfactual to clean
  std::vector<Adversarial> adversarial;
  std::vector<std::string> worst;  // prompts that the model gets most wrong
  int64_t parameters = 0;
  double training_seconds = 0, inspecting_seconds = 0;
  std::string device;
};

struct IoiRun {
  IoiResult result;
  std::unique_ptr<LanguageModel> model;
};
// Where the model does not reach 95 % on held-out prompts, no circuit is claimed: the parts of the
// result after `by_order` are left as they are.
IoiRun run_ioi(Device& device, const IoiSettings& settings, const OnExperimentProgress& progress);
inline constexpr double kIoiAccuracyNeeded = 0.95;

std::vector<Table> ioi_tables(const IoiResult& result);
std::string ioi_json(const IoiSettings& settings, const IoiResult& result);
Report ioi_report(const IoiSettings& settings, const IoiResult& result);

}  // namespace elapse

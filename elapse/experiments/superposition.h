// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/progress.h"
#include "elapse/experiments/toy_geometry.h"
#include "elapse/experiments/toy_model.h"
#include "elapse/report/report.h"
#include "elapse/report/table.h"

namespace elapse {

// Toy models of superposition (Elhage et al., 2022), in three parts: five features in a plane,
// which can be drawn; 80 in 20 dimensions against sparsity; and |x| of 100 features computed by 40
// neurons, read out by squared error and by accuracy.
struct SuperpositionSettings {
  struct Part {
    int64_t features, hidden;
    std::vector<double> probabilities;  // that a feature is on, one instance each
    ToyTraining training;
  };

  Part plane, sweep, absolute;
  double epsilon = 0.1;      // an answer within it of |x| is right
  int64_t held_out = 32768;  // examples that a model is measured on
  uint64_t seed = 1;
  int64_t seeds = 1;  // seed, seed + 1, ...: every model is trained from each

  static SuperpositionSettings quick();
  void check() const;                    // throws Error naming the field out of its range
  std::string unlike_published() const;  // a sentence
};

struct SuperpositionResult {
  struct Reconstruction {
    double loss = 0;
    std::vector<double> W, b;  // (hidden, features), (features)
    FeatureGeometry geometry;
  };
  struct Computation {
    double loss = 0;
    // Of each feature: the share of its targets' mean square that is left as error, and the shares
    // of right answers among examples in which it is on, and among all.
    std::vector<double> error, right_on, right;
  };
  template <class Run>
  struct Instance {
    ToyTask task;
    std::vector<Run> runs;  // (seeds)
  };
  using Reconstructions = std::vector<Instance<Reconstruction>>;  // by probability, falling

  Reconstructions plane;                        // I_i = 0.9^i
  Reconstructions pentagon;                     // I_i = 1, at the sparsest alone
  Reconstructions sweep;                        // I_i from 1 to 0.01
  Reconstructions uniform;                      // I_i = 1
  std::vector<Instance<Computation>> absolute;  // I_i = 0.8^i
  double seconds = 0;
  std::string device;
};

// Models are trained side by side, one on a thread.
SuperpositionResult run_superposition(const Device& device, const SuperpositionSettings& settings,
                                      const OnExperimentProgress& progress);

// The loss of the best model that keeps features apart: the most important ones exactly, one a
// dimension (two neurons a feature, for |x|), and of each other one its mean.
double loss_without_superposition(const ToyTask& task);

// How many features a model computes by either read-out: at most a tenth of the error left; at
// least nine answers in ten right where the feature is on.
int64_t computed_by_error(const SuperpositionResult::Computation& run);
int64_t computed_by_accuracy(const SuperpositionResult::Computation& run);

std::vector<Table> superposition_tables(const SuperpositionSettings& settings,
                                        const SuperpositionResult& result);
std::string superposition_json(const SuperpositionSettings& settings,
                               const SuperpositionResult& result);
Report superposition_report(const SuperpositionSettings& settings,
                            const SuperpositionResult& result);

}  // namespace elapse

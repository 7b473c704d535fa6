// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "elapse/data/token_source.h"
#include "elapse/experiments/progress.h"
#include "elapse/model/language_model.h"
#include "elapse/train/config.h"
#include "elapse/train/evaluation.h"

// The trainings that an experiment consists of, each in a folder of its own: one that is finished
// stays, one that was killed goes on from its checkpoint, bit for bit.
namespace elapse {

// How a trained model is measured.
struct RunTests {
  std::string what;   // in words, which tell one measurement from another
  int64_t count = 1;  // of evaluations that it gives
  std::function<std::vector<Evaluation>(const LanguageModel&, const TokenSource&,
                                        const OnExperimentProgress&)>
      run;
};
// On held-out examples of the source in sequences of `length`.
RunTests held_out_tests(int64_t length);

// One of them. Everything but `name` and `title` decides the result.
struct RunPlan {
  std::string name;   // its folder's, below the experiment's: "mamba-seed-2"
  std::string title;  // "Mamba, seed 2"
  ModelConfig model;
  TrainConfig train;
  DType activations = DType::f32;  // what the model computes in
  uint64_t seed = 1;               // of the first weights
  std::shared_ptr<const TokenSource> source;
  RunTests tests;
};

struct RunResult {
  // A step whose loss or gradients were not finite: the training ended there.
  struct Divergence {
    int64_t step = 0;
    std::string reason;
  };

  std::vector<double> losses;     // (steps), nats
  std::vector<Evaluation> tests;  // none of a run that diverged
  std::optional<Divergence> diverged;
  int64_t parameters = 0;
  std::string device;  // that it was run on: "cpu (AVX2, 2 threads)"; "not said": an older run.json
  double training_seconds = 0;
  double testing_seconds = 0;

  double final_loss() const;  // mean of the last 50 steps
};

// Runs the plans in turn, but for those that are finished. A run that diverges is finished, and its
// folder keeps the last checkpoint's weights. Where `progress` throws, the training in
// hand is saved before the exception goes on. Throws Error naming what differs where a plan's
// folder holds a run of other settings, or one of another backend that is not finished: a finished
// one is shown, whatever it was run on.
std::vector<RunResult> run_all(Device& device, const std::vector<RunPlan>& plans,
                               const std::string& folder, const OnExperimentProgress& progress);

// "cpu (AVX2, 2 threads)"; "cuda (NVIDIA H200, 1 threads) in bf16" where not in float32.
std::string device_text(const Device& device, DType activations);

// The folder of the run of that name, which has the trained model when the run is finished.
std::string run_folder(const std::string& folder, const std::string& name);

}  // namespace elapse

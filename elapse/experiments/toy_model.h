// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <vector>

#include "elapse/autograd/functions.h"
#include "elapse/autograd/parameters.h"
#include "elapse/core/random.h"
#include "elapse/optim/adamw.h"
#include "elapse/optim/schedule.h"

namespace elapse {

// What a toy model of superposition (Elhage et al., 2022) is trained to, and how large it is.
struct ToyTask {
  enum class Kind : uint8_t {
    // h = W x, x' = ReLU(W^T h + b); target x. An input is on with the probability below, and then
    // uniform over [0, 1).
    reconstruct,
    // h = ReLU(W1 x), y' = ReLU(W2 h + b); target |x|. An input that is on is uniform over [-1, 1).
    absolute_value,
  };

  Kind kind = Kind::reconstruct;
  int64_t hidden = 2;
  std::vector<double> importance = {};  // (features), I_i: what its squared error counts
  double probability = 1;               // that a feature is on, 1 - S

  int64_t features() const { return std::ssize(importance); }
  void check() const;  // throws Error naming the field that makes no task
};

std::vector<double> falling_importance(int64_t features, double ratio);  // I_i = ratio^i

// Examples drawn in turn: (count, features) of inputs.
std::vector<float> draw_inputs(const ToyTask& task, int64_t count, Random& random);
float target_of(ToyTask::Kind kind, float input);

class ToyModel {
 public:
  // Matrices start as Glorot and Bengio (2010) have it, normal of variance 2 / (features + hidden),
  // but for |x| a tenth as large: from larger ones neurons are taken at random, and most features
  // keep one sign alone. b starts at 0. Computes in float or double, as `dtype` says.
  ToyModel(Device& device, ToyTask task, DType dtype, Random random);

  const ToyTask& task() const { return task_; }
  const Parameters& parameters() const { return parameters_; }
  Device& device() const { return device_; }

  Var output(Tape& tape, const Var& x) const;  // (count, features) both
  // The sum over examples and features of I_i (target_i - output_i)^2: (1, 1).
  Var loss(Tape& tape, const std::vector<float>& inputs) const;

  // On the host: (count, features) of outputs.
  std::vector<float> outputs(const std::vector<float>& inputs) const;
  std::vector<double> weights() const;  // W or W1: (hidden, features)
  std::vector<double> biases() const;   // b: (features)

 private:
  Tensor tensor(const std::vector<double>& values, Shape shape) const;

  Device& device_;
  ToyTask task_;
  DType dtype_;
  Parameters parameters_;
  Var W_;              // (hidden, features)
  Var W2_;             // (features, hidden); empty where W^T takes its place
  Var b_;              // (1, features)
  Tensor importance_;  // (1, features)
};

struct ToyTraining {
  int64_t batch = 1024;
  int64_t steps = 10000;
  Schedule schedule = {.peak_lr = 1e-3};

  void check() const;  // throws Error naming the field out of its range
};

// Trains one model on one thread, so that many are trained side by side and none depends on the
// number of threads. Every batch is drawn afresh.
class ToyTrainer {
 public:
  // Two models of one seed are told apart by `stream`: they share no random numbers.
  ToyTrainer(const std::string& device, const ToyTask& task, const ToyTraining& training,
             uint64_t seed, uint64_t stream);

  void run(int64_t steps);  // so many more
  const ToyModel& model() const { return *model_; }
  Random held_out() const;  // for inputs that training did not draw

 private:
  ToyTraining training_;
  uint64_t seed_, stream_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<ToyModel> model_;
  AdamWOptimizer optimizer_;
  Random data_;
};

}  // namespace elapse

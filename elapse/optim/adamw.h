// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/autograd/parameters.h"
#include "elapse/ops/optimizer.h"

namespace elapse {

// The defaults are Mamba's published recipe (Gu and Dao, 2023, appendix E.2).
struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  // of parameters that decay: not of A_log, D, biases and norms
  double max_norm = 1;        // gradients are scaled down to this norm over all; 0: never

  void check() const;  // throws Error naming the field out of its range
};

// Adam with decoupled weight decay (elapse/ops/optimizer.h has the formula) over a model's
// parameters, with the moments and the number of updates that make up its state.
class AdamWOptimizer {
 public:
  AdamWOptimizer(Device& device, const Parameters& parameters, const AdamWConfig& config);

  // Of all gradients together. measure() starts the sum on the device, norm() waits for it.
  void measure_gradients();
  double gradient_norm() const;

  // One update by the gradients last measured; the first has number 1. No parameter is trained at
  // more than its own max_lr. Does not wait.
  void update(double lr);

  struct Moments {
    Tensor m;  // the parameter's shape
    Tensor v;
  };
  const std::vector<Moments>& moments() const { return moments_; }  // in the parameters' order
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  void update(double lr, std::vector<AdamWTensor> tensors);

  Device& device_;
  const Parameters& parameters_;
  AdamWConfig config_;
  DType dtype_;
  std::vector<Moments> moments_;
  Tensor norm_squared_;  // (1) f64
  int64_t updates_ = 0;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace elapse {

void AdamWConfig::check() const {
  for (const auto& [name, beta] : {std::pair("beta1", beta1), std::pair("beta2", beta2)}) {
    ELAPSE_CHECK(beta >= 0 && beta < 1, "{}: expected at least 0 and less than 1, found {}", name,
                 beta);
  }
  ELAPSE_CHECK(std::isfinite(eps) && eps > 0, "eps: expected a positive number, found {}", eps);
  ELAPSE_CHECK(std::isfinite(weight_decay) && weight_decay >= 0,
               "weight_decay: expected 0 or more, found {}", weight_decay);
  ELAPSE_CHECK(std::isfinite(max_norm) && max_norm >= 0,
               "max_norm: expected 0 (no clipping) or more, found {}", max_norm);
}

AdamWOptimizer::AdamWOptimizer(Device& device, const Parameters& parameters,
                               const AdamWConfig& config)
    : device_(device),
      parameters_(parameters),
      config_(config),
      dtype_(parameters.all().front().var.dtype()),
      norm_squared_(device.zeros(DType::f64, {1})) {
  config.check();
  for (const Parameter& p : parameters.all()) {
    const Shape& shape = p.var.value().shape();
    moments_.push_back({device.zeros(dtype_, shape), device.zeros(dtype_, shape)});
  }
}

void AdamWOptimizer::measure_gradients() {
  SumOfSquares sum;
  for (const Parameter& p : parameters_.all()) sum.tensors.push_back(p.var.grad());
  sum.out = norm_squared_;
  sum_of_squares(device_, sum);
}

double AdamWOptimizer::gradient_norm() const {
  double squared = 0;
  device_.download_bytes(norm_squared_, &squared);
  return std::sqrt(squared);
}

void AdamWOptimizer::update(double lr) {
  ++updates_;
  std::map<double, std::vector<AdamWTensor>> by_lr;
  for (size_t i = 0; i < moments_.size(); ++i) {
    const Parameter& p = parameters_.all()[i];
    by_lr[std::min(lr, p.max_lr)].push_back(
        {p.var.value(), p.var.grad(), moments_[i].m, moments_[i].v, p.decay});
  }
  for (auto& [own_lr, tensors] : by_lr) update(own_lr, std::move(tensors));
}

void AdamWOptimizer::update(double lr, std::vector<AdamWTensor> tensors) {
  AdamW args;
  args.tensors = std::move(tensors);
  if (config_.max_norm > 0) {
    args.norm_squared = norm_squared_;
    args.max_norm = config_.max_norm;
  }
  args.lr = lr;
  args.beta1 = config_.beta1;
  args.beta2 = config_.beta2;
  args.eps = config_.eps;
  args.weight_decay = config_.weight_decay;
  args.step = updates_;
  adamw(device_, args);
}

}  // namespace elapse

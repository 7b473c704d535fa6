// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <functional>
#include <string>

#include "elapse/autograd/tape.h"
#include "elapse/experiments/pair_reads.h"

namespace elapse {

// How well a linear read-out, fitted by least squares to some inputs, reads the ANDs and XORs of
// others from a layer that was drawn at random.
struct ReadoutSettings {
  int64_t d0 = 64;
  int64_t ones = 3;
  std::vector<int64_t> widths = {64, 256, 1024, 4096};  // d
  int64_t pairs = 24;                                   // drawn at random, read-outs of their own
  // Inputs for each pair by how many of it are on, all different. Each class has a third of the
  // weight in the fit, however many inputs it has.
  std::array<int64_t, kPairClasses> train = {320, 320, 40}, test = {200, 200, 22};
  // Of sum_n w_n e_n^2 + ridge |r|^2 where weights sum to 1 and features have a mean square length
  // of 1, the intercept being one more feature of that length.
  double ridge = 1e-5;

  void check() const;  // throws Error naming the field out of its range
};

// The inputs' products phi(x_m) . phi(x_n) of some features: of all inputs by the first `train`.
using PairKernel =
    std::function<std::vector<float>(const std::vector<OnList>& inputs, int64_t train)>;
// Of ReLU(W x + b), W (d, d0) and b (d).
PairKernel layer_kernel(Device& device, int64_t d0, std::vector<float> W, std::vector<float> b);
PairKernel input_kernel(int64_t d0);  // of x itself
// Of ReLU(W x), W_ki ~ N(0, 1/d0), as d goes to infinity, over d (Cho and Saul, 2009, n = 1).
PairKernel wide_kernel(int64_t d0);

// Held-out errors, summed over the pairs.
struct ReadoutErrors {
  std::string layer;  // "random"
  int64_t d = 0;      // 0: x itself; -1: without end
  ClassErrors and_ = {}, xor_ = {};
  // The same fit with each training input's AND drawn by lot, 1 in 3: what remains of reading when
  // there is nothing to read.
  ClassErrors lots = {};
};

// One kernel's read-outs. The pairs and their inputs depend on settings and seed alone.
ReadoutErrors fit_readouts(const PairKernel& kernel, const ReadoutSettings& settings, uint64_t seed,
                           int threads);

// x itself, random layers W ~ N(0, 1/d0) without bias of every width and without end, and the
// construction's layers: read by least squares, and by its own read-off.
std::vector<ReadoutErrors> measure_readouts(
    Device& device, const ReadoutSettings& settings, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace elapse

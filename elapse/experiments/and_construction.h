// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cmath>
#include <span>

#include "elapse/experiments/pair_reads.h"

namespace elapse {

// The construction of universal AND (Vaintrob, Mendel and Hänni, 2024, arXiv 2408.05451): a layer
//   a = ReLU(W x + b),  W_ki ~ Bernoulli(p) iid,  b = -1,
// whose neuron k is 0 until two of the inputs it reads are on. S_i is the set of neurons that read
// input i; the AND of i and j is read as the mean of a over S_i and S_j's shared neurons, and as 0
// where they share none; the XOR as x_i + x_j - 2 AND, the inputs themselves being there to read.
class NeuronSets {
 public:
  NeuronSets(int64_t d0, int64_t d);  // neurons that read nothing yet
  // Row i is drawn from a stream of its own: the same sets on any number of threads.
  static NeuronSets bernoulli(int64_t d0, int64_t d, double p, uint64_t seed, uint64_t stream,
                              int threads);

  int64_t d0() const { return d0_; }
  int64_t d() const { return d_; }
  void set(int64_t i, int64_t k);  // neuron k reads input i
  bool reads(int64_t i, int64_t k) const;
  int64_t shared(int64_t i, int64_t j) const;  // |S_i and S_j|

  struct Active {
    int64_t neuron, a;
  };
  std::vector<Active> active(const OnList& on) const;  // neurons with a > 0
  std::vector<std::vector<int64_t>> readers() const;   // (d): the inputs that each neuron reads
  std::vector<float> weights() const;                  // W (d, d0)

 private:
  std::span<const uint64_t> row(int64_t i) const;

  int64_t d0_, d_, words_;
  std::vector<uint64_t> bits_;  // (d0, words): bit k of row i is W_ki
};

// p at which two inputs share about 6.6 neurons, so that 1 pair in 700 shares none: what errors are
// least with among 2.56/sqrt(d) times powers of the root of 2.
inline double sharing_p(int64_t d) { return 2.56 / std::sqrt(static_cast<double>(d)); }

// By the definition above, neuron by neuron.
double read_and(const NeuronSets& sets, const OnList& on, Pair pair);

// The expected error of the AND of a pair that shares neurons, with `ones` inputs on, by how many
// of the pair are on. A shared neuron sees Binomial(n, p) further ones, n = ones less those of the
// pair: both on (ones - 2) p; one on (ones - 1) p; neither ones p - 1 + (1 - p)^ones, which is
// about C(ones, 2) p^2.
std::array<double, kPairClasses> and_error_law(int64_t ones, double p);

struct ConstructionErrors {
  int64_t pairs = 0;
  int64_t empty_pairs = 0;                             // that share no neuron
  ClassErrors and_, xor_ = {};                         // of the other pairs
  std::array<int64_t, kPairClasses> empty_reads = {};  // of the empty ones
  // Of the means over the inputs, of AND. Inputs share one W, whose own chance this leaves out.
  std::array<double, kPairClasses> standard_errors = {};

  double empty_share() const;
  // The largest of the classes' mean absolute errors of AND over all pairs: reads are never below
  // the truth but of pairs that share no neuron, which read 0.
  double worst_class() const;
};

// Every pair on each of the inputs.
ConstructionErrors measure_construction(const NeuronSets& sets, const std::vector<OnList>& inputs,
                                        int threads);

}  // namespace elapse

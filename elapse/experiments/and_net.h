// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>

#include "elapse/autograd/parameters.h"
#include "elapse/experiments/pair_reads.h"

namespace elapse {

// What a net is trained by: the first two are its authors'.
enum class PairLoss : uint8_t {
  together,  // root mean square of the error over all reads ("normal")
  by_truth,  // that over reads whose truth is 1, and that where it is 0, added up ("reweighted")
  by_class,  // mean squares over reads with both, one and neither of the pair on, added up
};

std::string_view name_of(PairLoss loss);  // "by class"

// A layer and its read-outs trained to the ANDs or XORs of pairs, as the authors of the
// construction trained theirs (class ExperimentParams): Adam on batches of inputs each on with
// probability ones/d0, all of whose pairs are targets.
struct AndNetSettings {
  int64_t d0 = 200;
  int64_t d = 600;
  double ones = 0;         // expected; 0: 2 sqrt(ln d0), as there
  int64_t targets = 1000;  // pairs drawn at random; 0: all of them, as there
  PairTarget target = PairTarget::and_;
  PairLoss loss = PairLoss::by_class;
  int64_t steps = 3000;
  int64_t batch = 100;
  double lr = 1e-3;
  int64_t test_inputs = 2000;

  double expected_ones() const;
  int64_t pairs() const;  // that are targets
  void check() const;     // throws Error naming the field out of its range
};

// y = V ReLU(W x + b) + c; everything starts uniform within 1/sqrt(fan-in), PyTorch's default.
class AndNet {
 public:
  // Without `train_first` W and b stay as they were drawn.
  AndNet(Device& device, int64_t d0, int64_t d, int64_t targets, DType dtype, bool train_first,
         uint64_t seed);

  Var forward(Tape& tape, const Tensor& x) const;               // (batch, d0) -> (batch, targets)
  const Parameters& parameters() const { return parameters_; }  // those that are trained
  const Var& W() const { return W_; }                           // (d, d0)

 private:
  Var start(const char* name, Shape shape, int64_t fan_in, bool train);

  Device& device_;
  DType dtype_;
  uint64_t seed_;
  int64_t drawn_ = 0;
  Parameters parameters_;
  Var W_, b_;  // (d, d0), (d)
  Var V_, c_;  // (targets, d), (targets)
};

std::vector<Pair> draw_targets(const AndNetSettings& settings, uint64_t seed);  // ascending
std::vector<OnList> draw_inputs(Random& random, const AndNetSettings& settings, int64_t count);

// The loss of AndNetSettings, of y (inputs, targets); its gradient is set on y.
template <class T>
double pair_loss(Device& device, Var y, const AndNetSettings& settings,
                 const std::vector<Pair>& targets, const std::vector<OnList>& inputs);

// Shape of a distribution of weights.
struct WeightShape {
  double mean = 0, sd = 0, skewness = 0, kurtosis = 0;  // 3 of a normal one
  // Sarle's (skewness^2 + 1) / kurtosis: 1 where there are two values alone, 5/9 of a uniform
  // distribution, 1/3 of a normal one.
  double bimodality() const { return (skewness * skewness + 1) / kurtosis; }
};
WeightShape shape_of(const std::vector<float>& weights);

struct AndNetResult {
  std::string name;            // "trained"
  std::vector<double> losses;  // (steps); empty of what is not trained
  ClassErrors errors = {};     // of test inputs
  std::vector<float> W;        // (d, d0), as it came to be
};

// The same targets and test inputs for, in this order: W trained too; the same W left as drawn; the
// construction; 0 whatever comes.
std::vector<AndNetResult> train_and_nets(
    Device& device, const AndNetSettings& settings, uint64_t seed,
    const std::function<void(const std::string& net, int64_t step, double loss)>& progress);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/and_net.h"

#include <algorithm>
#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/core/convert.h"
#include "elapse/experiments/and_construction.h"
#include "elapse/experiments/universal_and_streams.h"
#include "elapse/optim/adamw.h"

namespace elapse {
namespace {

constexpr int64_t kTestInputsAtOnce = 100;

int64_t all_pairs(int64_t d0) { return d0 * (d0 - 1) / 2; }

// Pairs in the order (0, 1), (0, 2), ..., (1, 2), ...
Pair nth_pair(int64_t n, int64_t d0) {
  int64_t i = 0;
  for (; n >= d0 - 1 - i; ++i) n -= d0 - 1 - i;
  return {i, i + 1 + n};
}

int count_on(const std::vector<uint8_t>& flags, Pair pair) {
  return flags[static_cast<size_t>(pair.i)] + flags[static_cast<size_t>(pair.j)];
}

template <class T>
std::vector<T> values_of(Device& device, const Tensor& t) {
  std::vector<T> values(static_cast<size_t>(t.numel()));
  device.download_bytes(t, values.data());
  return values;
}

// Errors of what `read` says of inputs, (inputs, targets).
template <class Read>
ClassErrors test_errors(const AndNetSettings& s, const std::vector<Pair>& targets,
                        const std::vector<OnList>& inputs, Read&& read) {
  ClassErrors errors;
  for (int64_t begin = 0; begin < std::ssize(inputs); begin += kTestInputsAtOnce) {
    const int64_t end = std::min(begin + kTestInputsAtOnce, std::ssize(inputs));
    const std::vector<OnList> group(inputs.begin() + begin, inputs.begin() + end);
    const std::vector<float> values = read(group);
    size_t at = 0;
    for (const OnList& input : group) {
      const std::vector<uint8_t> flags = as_flags(input, s.d0);
      for (const Pair pair : targets) {
        const int on = count_on(flags, pair);
        errors[static_cast<size_t>(on)].add(static_cast<double>(values[at++]) -
                                            truth(s.target, on));
      }
    }
  }
  return errors;
}

AndNetResult train_net(Device& device, const AndNetSettings& s, const std::vector<Pair>& targets,
                       const std::vector<OnList>& test, bool train_first, uint64_t seed,
                       const std::function<void(int64_t step, double loss)>& progress) {
  const AndNet net(device, s.d0, s.d, std::ssize(targets), DType::f32, train_first, seed);
  AdamWOptimizer adam(device, net.parameters(), {.beta2 = 0.999, .weight_decay = 0, .max_norm = 0});
  Random random(seed, stream_of(RandomUse::net_batches));
  AndNetResult result;
  for (int64_t step = 0; step < s.steps; ++step) {
    const std::vector<OnList> inputs = draw_inputs(random, s, s.batch);
    net.parameters().zero_grad(device);
    Tape tape(device);
    const Var y = net.forward(tape, device.upload(as_rows<float>(inputs, s.d0), {s.batch, s.d0}));
    result.losses.push_back(pair_loss<float>(device, y, s, targets, inputs));
    tape.backward();
    adam.update(s.lr);
    progress(step + 1, result.losses.back());
  }
  result.errors = test_errors(s, targets, test, [&](const std::vector<OnList>& group) {
    Tape tape(device, false);
    const Tensor x = device.upload(as_rows<float>(group, s.d0), {std::ssize(group), s.d0});
    return values_of<float>(device, net.forward(tape, x).value());
  });
  result.W = values_of<float>(device, net.W().value());
  return result;
}

AndNetResult construct(const AndNetSettings& s, const std::vector<Pair>& targets,
                       const std::vector<OnList>& test, uint64_t seed, int threads) {
  const NeuronSets sets = NeuronSets::bernoulli(s.d0, s.d, sharing_p(s.d), seed,
                                                stream_of(RandomUse::net_sets), threads);
  AndNetResult result;
  result.errors = test_errors(s, targets, test, [&](const std::vector<OnList>& group) {
    std::vector<float> values;
    for (const OnList& input : group) {
      const std::vector<uint8_t> flags = as_flags(input, s.d0);
      for (const Pair pair : targets) {
        const double read = read_and(sets, input, pair);
        values.push_back(static_cast<float>(
            s.target == PairTarget::and_ ? read : count_on(flags, pair) - 2 * read));
      }
    }
    return values;
  });
  result.W = sets.weights();
  return result;
}

}  // namespace

std::string_view name_of(PairLoss loss) {
  switch (loss) {
    case PairLoss::together:
      return "together";
    case PairLoss::by_truth:
      return "by truth";
    case PairLoss::by_class:
      break;
  }
  return "by class";
}

double AndNetSettings::expected_ones() const {
  return ones > 0 ? ones : 2 * std::sqrt(std::log(static_cast<double>(d0)));
}

int64_t AndNetSettings::pairs() const { return targets == 0 ? all_pairs(d0) : targets; }

void AndNetSettings::check() const {
  ELAPSE_CHECK(d0 >= 2 && d0 <= kLargestWidth, "d0: expected 2 to {} inputs, found {}",
               kLargestWidth, d0);
  ELAPSE_CHECK(d >= 1 && d <= kLargestWidth, "d: expected 1 to {} neurons, found {}", kLargestWidth,
               d);
  ELAPSE_CHECK(ones >= 0 && ones <= static_cast<double>(d0),
               "ones: expected 0 (2 sqrt(ln d0)) to {}, as many as there are inputs, found {}", d0,
               ones);
  ELAPSE_CHECK(targets >= 0 && targets <= all_pairs(d0),
               "targets: expected 0 (all) to {}, the pairs of {} inputs, found {}", all_pairs(d0),
               d0, targets);
  ELAPSE_CHECK(steps >= 1, "steps: expected at least 1, found {}", steps);
  ELAPSE_CHECK(batch >= 1, "batch: expected at least 1 input, found {}", batch);
  ELAPSE_CHECK(std::isfinite(lr) && lr > 0, "lr: expected a positive number, found {}", lr);
  ELAPSE_CHECK(test_inputs >= 1, "test_inputs: expected at least 1, found {}", test_inputs);
}

AndNet::AndNet(Device& device, int64_t d0, int64_t d, int64_t targets, DType dtype,
               bool train_first, uint64_t seed)
    : device_(device), dtype_(dtype), seed_(seed) {
  W_ = start("W", {d, d0}, d0, train_first);
  b_ = start("b", {d}, d0, train_first);
  V_ = start("V", {targets, d}, d, true);
  c_ = start("c", {targets}, d, true);
}

Var AndNet::start(const char* name, Shape shape, int64_t fan_in, bool train) {
  Random random(seed_, stream_of(RandomUse::net_weights, drawn_++));
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& v : values) v = random.uniform(-bound, bound);
  const Tensor value =
      dtype_ == DType::f64
          ? device_.upload(values, shape)
          : device_.upload(std::vector<float>(values.begin(), values.end()), shape);
  return train ? parameters_.add(name, value, false) : Var(value);
}

Var AndNet::forward(Tape& tape, const Tensor& x) const {
  return linear(tape, relu(tape, linear(tape, Var(x), W_, b_)), V_, c_);
}

std::vector<Pair> draw_targets(const AndNetSettings& settings, uint64_t seed) {
  const int64_t all = all_pairs(settings.d0);
  Random random(seed, stream_of(RandomUse::net_targets));
  std::vector<Pair> targets;
  int64_t wanted = settings.pairs();
  for (int64_t n = 0; n < all; ++n) {  // each with the chance that leaves just as many as wanted
    if (random.below(all - n) >= wanted) continue;
    targets.push_back(nth_pair(n, settings.d0));
    --wanted;
  }
  return targets;
}

std::vector<OnList> draw_inputs(Random& random, const AndNetSettings& settings, int64_t count) {
  const double p = settings.expected_ones() / static_cast<double>(settings.d0);
  std::vector<OnList> inputs(static_cast<size_t>(count));
  for (OnList& on : inputs) {
    for (int64_t i = 0; i < settings.d0; ++i) {
      if (random.uniform() < p) on.push_back(i);
    }
  }
  return inputs;
}

namespace {

// Which of the loss's sums a read belongs to.
size_t part_of(PairLoss loss, PairTarget target, int on) {
  switch (loss) {
    case PairLoss::together:
      return 0;
    case PairLoss::by_truth:
      return truth(target, on) == 1 ? 1 : 0;
    case PairLoss::by_class:
      break;
  }
  return static_cast<size_t>(on);
}

}  // namespace

template <class T>
double pair_loss(Device& device, Var y, const AndNetSettings& settings,
                 const std::vector<Pair>& targets, const std::vector<OnList>& inputs) {
  std::vector<T> error = values_of<T>(device, y.value());  // (inputs, targets)
  std::vector<uint8_t> part(error.size());                 // of the loss
  std::array<double, kPairClasses> sums = {}, counts = {};
  size_t at = 0;
  for (const OnList& input : inputs) {
    const std::vector<uint8_t> flags = as_flags(input, settings.d0);
    for (const Pair pair : targets) {
      const int on = count_on(flags, pair);
      part[at] = static_cast<uint8_t>(part_of(settings.loss, settings.target, on));
      error[at] -= static_cast<T>(truth(settings.target, on));
      sums[part[at]] += static_cast<double>(error[at]) * static_cast<double>(error[at]);
      ++counts[part[at]];
      ++at;
    }
  }
  double loss = 0;
  std::array<T, kPairClasses> scale = {};  // of the errors in the gradient
  for (size_t p = 0; p < sums.size(); ++p) {
    if (sums[p] == 0) continue;  // none, or a minimum
    const double mean = sums[p] / counts[p];
    const bool rooted = settings.loss != PairLoss::by_class;
    loss += rooted ? std::sqrt(mean) : mean;
    scale[p] = static_cast<T>((rooted ? 1 / std::sqrt(mean) : 2) / counts[p]);
  }
  for (size_t i = 0; i < error.size(); ++i) error[i] *= scale[part[i]];
  y.set_grad(device.upload(error, y.value().shape()));
  return loss;
}
template double pair_loss<float>(Device&, Var, const AndNetSettings&, const std::vector<Pair>&,
                                 const std::vector<OnList>&);
template double pair_loss<double>(Device&, Var, const AndNetSettings&, const std::vector<Pair>&,
                                  const std::vector<OnList>&);

WeightShape shape_of(const std::vector<float>& weights) {
  const auto n = static_cast<double>(weights.size());
  double sum = 0, m2 = 0, m3 = 0, m4 = 0;
  for (const float w : weights) sum += static_cast<double>(w);
  for (const float w : weights) {
    const double e = static_cast<double>(w) - sum / n;
    m2 += e * e / n;
    m3 += e * e * e / n;
    m4 += e * e * e * e / n;
  }
  return {sum / n, std::sqrt(m2), m3 / std::pow(m2, 1.5), m4 / (m2 * m2)};
}

std::vector<AndNetResult> train_and_nets(
    Device& device, const AndNetSettings& settings, uint64_t seed,
    const std::function<void(const std::string& net, int64_t step, double loss)>& progress) {
  settings.check();
  const std::vector<Pair> targets = draw_targets(settings, seed);
  Random random(seed, stream_of(RandomUse::net_test));
  const std::vector<OnList> test = draw_inputs(random, settings, settings.test_inputs);
  std::vector<AndNetResult> results;
  for (const bool train_first : {true, false}) {
    const std::string name = train_first ? "trained" : "read-outs trained";
    results.push_back(train_net(device, settings, targets, test, train_first, seed,
                                [&](int64_t step, double loss) { progress(name, step, loss); }));
    results.back().name = name;
  }
  results.push_back(construct(settings, targets, test, seed, device.threads()));
  results.back().name = "construction";
  results.push_back({"always 0", {}, {}, {}});
  results.back().errors = test_errors(settings, targets, test, [&](const auto& group) {
    return std::vector<float>(group.size() * targets.size());
  });
  return results;
}

}  // namespace elapse

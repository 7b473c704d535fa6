// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/random_readouts.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "elapse/autograd/functions.h"
#include "elapse/core/parallel.h"
#include "elapse/experiments/and_construction.h"
#include "elapse/experiments/ridge.h"
#include "elapse/experiments/universal_and_streams.h"

namespace elapse {
namespace {

constexpr int kTargets = 3;  // AND, XOR, lots

double choose(int64_t n, int64_t k) {
  double ways = 1;
  for (int64_t i = 0; i < k; ++i) ways *= static_cast<double>(n - i) / static_cast<double>(i + 1);
  return ways;
}

// Inputs of one pair: those of training first.
struct Examples {
  std::vector<OnList> inputs;
  std::vector<int> on;  // (inputs): how many of the pair are
  int64_t train = 0;
};

OnList draw_of_class(Random& random, const ReadoutSettings& s, Pair pair, int on) {
  OnList list = draw_on(random, s.d0 - 2, s.ones - on);
  for (int64_t& i : list) {  // numbered among the inputs outside the pair
    if (i >= pair.i) ++i;
    if (i >= pair.j) ++i;
  }
  if (on == kBoth) list.insert(list.end(), {pair.i, pair.j});
  if (on == kOne) list.push_back(random.below(2) == 0 ? pair.i : pair.j);
  std::sort(list.begin(), list.end());
  return list;
}

Examples draw_examples(Random& random, const ReadoutSettings& s, Pair pair) {
  Examples train, test;
  for (int c = 0; c < kPairClasses; ++c) {
    const int64_t for_train = s.train[static_cast<size_t>(c)];
    const int64_t all = for_train + s.test[static_cast<size_t>(c)];
    std::set<OnList> seen;
    while (std::ssize(seen) < all) {
      const OnList list = draw_of_class(random, s, pair, c);
      Examples& part = std::ssize(seen) < for_train ? train : test;
      if (!seen.insert(list).second) continue;
      part.inputs.push_back(list);
      part.on.push_back(c);
    }
  }
  train.train = std::ssize(train.inputs);
  train.inputs.insert(train.inputs.end(), test.inputs.begin(), test.inputs.end());
  train.on.insert(train.on.end(), test.on.begin(), test.on.end());
  return train;
}

struct Drawn {
  Pair pair;
  Examples examples;
  std::vector<uint8_t> lots;  // (train)
};

Drawn draw_pair(const ReadoutSettings& s, uint64_t seed, int64_t n) {
  Random random(seed, stream_of(RandomUse::readout_examples, n));
  const OnList pair = draw_on(random, s.d0, 2);
  Drawn drawn = {{pair[0], pair[1]}, draw_examples(random, s, {pair[0], pair[1]}), {}};
  for (int64_t t = 0; t < drawn.examples.train; ++t) {
    drawn.lots.push_back(random.below(3) == 0 ? 1 : 0);
  }
  return drawn;
}

struct PairErrors {
  std::array<ClassErrors, kTargets> errors = {};
};

// Kernel (inputs, train), of features of any length and without an intercept.
PairErrors fit(const std::vector<float>& kernel, const Drawn& drawn, const ReadoutSettings& s) {
  const Examples& e = drawn.examples;
  const int64_t n = e.train;
  double length = 0;
  for (int64_t i = 0; i < n; ++i) {
    length += static_cast<double>(kernel[static_cast<size_t>(i * n + i)]) / static_cast<double>(n);
  }
  std::vector<double> K(static_cast<size_t>(n * n)), ridge, y;
  for (size_t i = 0; i < K.size(); ++i) K[i] = static_cast<double>(kernel[i]) / length + 1;
  for (int64_t i = 0; i < n; ++i) {
    const int on = e.on[static_cast<size_t>(i)];
    ridge.push_back(s.ridge * kPairClasses * static_cast<double>(s.train[static_cast<size_t>(on)]));
    y.push_back(truth(PairTarget::and_, on));
    y.push_back(truth(PairTarget::xor_, on));
    y.push_back(drawn.lots[static_cast<size_t>(i)]);
  }
  const std::vector<double> A = solve_ridge(std::move(K), ridge, std::move(y));
  PairErrors result;
  for (size_t m = static_cast<size_t>(n); m < e.inputs.size(); ++m) {
    const float* const row = kernel.data() + m * static_cast<size_t>(n);
    std::array<double, kTargets> read = {};
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      const double k = static_cast<double>(row[i]) / length + 1;
      for (size_t t = 0; t < kTargets; ++t) read[t] += k * A[i * kTargets + t];
    }
    const int on = e.on[m];
    for (size_t t = 0; t < kTargets; ++t) {
      const auto target = t == 1 ? PairTarget::xor_ : PairTarget::and_;
      result.errors[t][static_cast<size_t>(on)].add(read[t] - truth(target, on));
    }
  }
  return result;
}

// A kernel that is a function of how many inputs x and x' are both on.
template <class Function>
PairKernel overlap_kernel(int64_t d0, Function of) {
  return [d0, of](const std::vector<OnList>& inputs, int64_t train) {
    std::vector<float> kernel;
    kernel.reserve(inputs.size() * static_cast<size_t>(train));
    for (const OnList& x : inputs) {
      const std::vector<uint8_t> flags = as_flags(x, d0);
      for (int64_t n = 0; n < train; ++n) {
        const OnList& other = inputs[static_cast<size_t>(n)];
        int64_t shared = 0;
        for (const int64_t i : other) shared += flags[static_cast<size_t>(i)];
        kernel.push_back(static_cast<float>(of(shared, std::ssize(x), std::ssize(other))));
      }
    }
    return kernel;
  };
}

std::vector<float> normal_weights(int64_t d0, int64_t d, uint64_t seed, int threads) {
  std::vector<float> W(static_cast<size_t>(d * d0));
  const double sd = 1 / std::sqrt(static_cast<double>(d0));
  parallel_for(d, threads, [&](int64_t k) {
    Random random(seed, stream_of(RandomUse::readout_weights, d * kLargestWidth + k));
    for (int64_t i = 0; i < d0; ++i) {
      W[static_cast<size_t>(k * d0 + i)] = static_cast<float>(sd * random.normal());
    }
  });
  return W;
}

ReadoutErrors own_read_off(const NeuronSets& sets, const ReadoutSettings& s, uint64_t seed,
                           int threads) {
  std::vector<ReadoutErrors> each(static_cast<size_t>(s.pairs));
  parallel_for(s.pairs, threads, [&](int64_t n) {
    const Drawn drawn = draw_pair(s, seed, n);
    const Examples& e = drawn.examples;
    ReadoutErrors& errors = each[static_cast<size_t>(n)];
    for (size_t m = static_cast<size_t>(e.train); m < e.inputs.size(); ++m) {
      const double read = read_and(sets, e.inputs[m], drawn.pair);
      const int on = e.on[m];
      errors.and_[static_cast<size_t>(on)].add(read - truth(PairTarget::and_, on));
      errors.xor_[static_cast<size_t>(on)].add(on - 2 * read - truth(PairTarget::xor_, on));
    }
  });
  ReadoutErrors sum;
  for (const ReadoutErrors& errors : each) {
    add(sum.and_, errors.and_);
    add(sum.xor_, errors.xor_);
  }
  return sum;
}

}  // namespace

void ReadoutSettings::check() const {
  ELAPSE_CHECK(ones >= 2, "ones: expected at least 2 inputs on, found {}", ones);
  ELAPSE_CHECK(d0 >= ones + 2, "d0: expected at least {}, 2 more than are on, found {}", ones + 2,
               d0);
  ELAPSE_CHECK(pairs >= 1, "pairs: expected at least 1, found {}", pairs);
  ELAPSE_CHECK(std::isfinite(ridge) && ridge > 0, "ridge: expected a positive number, found {}",
               ridge);
  for (const int64_t d : widths) {
    ELAPSE_CHECK(d >= 1 && d <= kLargestWidth, "widths: expected 1 to {}, found {}", kLargestWidth,
                 d);
  }
  for (int on = 0; on < kPairClasses; ++on) {
    const auto c = static_cast<size_t>(on);
    const double there_are = choose(d0 - 2, ones - on) * (on == kOne ? 2 : 1);
    ELAPSE_CHECK(train[c] >= 1 && test[c] >= 1,
                 "train and test: expected inputs with {} of the pair on, found {} and {}",
                 name_of_pair_class(on), train[c], test[c]);
    ELAPSE_CHECK(static_cast<double>(train[c] + test[c]) <= there_are,
                 "train and test: expected at most the {} inputs there are with {} of the pair "
                 "on, found {}",
                 there_are, name_of_pair_class(on), train[c] + test[c]);
  }
}

PairKernel layer_kernel(Device& device, int64_t d0, std::vector<float> W, std::vector<float> b) {
  const int64_t d = std::ssize(b);
  const Var weight(device.upload(W, {d, d0})), bias(device.upload(b, {d}));
  return [&device, d0, weight, bias](const std::vector<OnList>& inputs, int64_t train) {
    Tape tape(device, false);
    const Var x(device.upload(as_rows<float>(inputs, d0), {std::ssize(inputs), d0}));
    const Var a = relu(tape, linear(tape, x, weight, bias));
    const Var products = linear(tape, a, slice_rows(tape, a, 0, train), Var());
    std::vector<float> kernel(static_cast<size_t>(products.value().numel()));
    device.download_bytes(products.value(), kernel.data());
    return kernel;
  };
}

PairKernel input_kernel(int64_t d0) {
  return overlap_kernel(d0, [](int64_t shared, int64_t, int64_t) { return shared; });
}

PairKernel wide_kernel(int64_t d0) {
  return overlap_kernel(d0, [d0](int64_t shared, int64_t a, int64_t b) {
    const double size = std::sqrt(static_cast<double>(a) * static_cast<double>(b));
    const double cosine = static_cast<double>(shared) / size;
    const double angle = std::acos(std::min(1.0, cosine));
    return size * (std::sin(angle) + (std::numbers::pi - angle) * cosine) /
           (2 * std::numbers::pi * static_cast<double>(d0));
  });
}

ReadoutErrors fit_readouts(const PairKernel& kernel, const ReadoutSettings& settings, uint64_t seed,
                           int threads) {
  std::vector<Drawn> drawn(static_cast<size_t>(settings.pairs));
  std::vector<std::vector<float>> kernels;
  for (int64_t n = 0; n < settings.pairs; ++n) {
    Drawn& pair = drawn[static_cast<size_t>(n)];
    pair = draw_pair(settings, seed, n);
    kernels.push_back(kernel(pair.examples.inputs, pair.examples.train));
  }
  std::vector<PairErrors> each(drawn.size());
  parallel_for(settings.pairs, threads, [&](int64_t n) {
    const auto at = static_cast<size_t>(n);
    each[at] = fit(kernels[at], drawn[at], settings);
  });
  ReadoutErrors sum;
  for (const PairErrors& e : each) {
    add(sum.and_, e.errors[0]);
    add(sum.xor_, e.errors[1]);
    add(sum.lots, e.errors[2]);
  }
  return sum;
}

std::vector<ReadoutErrors> measure_readouts(
    Device& device, const ReadoutSettings& settings, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  settings.check();
  const int threads = device.threads();
  const int64_t d0 = settings.d0, total = 2 + 3 * std::ssize(settings.widths);
  std::vector<ReadoutErrors> rows;
  const auto put = [&](const char* layer, int64_t d, ReadoutErrors row) {
    row.layer = layer;
    row.d = d;
    rows.push_back(std::move(row));
    progress(std::ssize(rows), total);
  };
  put("x itself", 0, fit_readouts(input_kernel(d0), settings, seed, threads));
  for (const int64_t d : settings.widths) {
    const PairKernel kernel = layer_kernel(device, d0, normal_weights(d0, d, seed, threads),
                                           std::vector<float>(static_cast<size_t>(d)));
    put("random", d, fit_readouts(kernel, settings, seed, threads));
  }
  put("random", -1, fit_readouts(wide_kernel(d0), settings, seed, threads));
  const auto construction = [&](int64_t d) {
    return NeuronSets::bernoulli(d0, d, sharing_p(d), seed,
                                 stream_of(RandomUse::readout_sets, d * kLargestWidth), threads);
  };
  for (const int64_t d : settings.widths) {
    const PairKernel kernel = layer_kernel(device, d0, construction(d).weights(),
                                           std::vector<float>(static_cast<size_t>(d), -1));
    put("construction", d, fit_readouts(kernel, settings, seed, threads));
  }
  for (const int64_t d : settings.widths) {
    put("construction, own read-off", d, own_read_off(construction(d), settings, seed, threads));
  }
  return rows;
}

}  // namespace elapse

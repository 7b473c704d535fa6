// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/and_construction.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "elapse/core/parallel.h"

namespace elapse {
namespace {

constexpr int64_t kWord = 64;

// Sizes of the intersections, (d0, d0) with the upper triangle filled.
class SharedSizes {
 public:
  SharedSizes(const NeuronSets& sets, int threads)
      : d0_(sets.d0()),
        sizes_(static_cast<size_t>(d0_ * d0_)),
        partners_(static_cast<size_t>(d0_)) {
    parallel_for(d0_, threads, [&](int64_t i) {
      for (int64_t j = i + 1; j < d0_; ++j) sizes_[index(i, j)] = to_i32(sets.shared(i, j));
    });
    for (int64_t i = 0; i < d0_; ++i) {
      for (int64_t j = i + 1; j < d0_; ++j) {
        if (sizes_[index(i, j)] == 0) continue;
        ++partners_[static_cast<size_t>(i)];
        ++partners_[static_cast<size_t>(j)];
        ++non_empty_;
      }
    }
  }

  size_t index(int64_t i, int64_t j) const { return static_cast<size_t>(i * d0_ + j); }
  int32_t at(size_t index) const { return sizes_[index]; }
  int64_t pairs() const { return d0_ * (d0_ - 1) / 2; }
  int64_t non_empty() const { return non_empty_; }

  // Pairs that share neurons, by how many of the two are on.
  std::array<int64_t, kPairClasses> counts(const OnList& on) const {
    int64_t both = 0, touched = 0;
    for (size_t a = 0; a < on.size(); ++a) {
      touched += partners_[static_cast<size_t>(on[a])];
      for (size_t b = a + 1; b < on.size(); ++b) both += sizes_[index(on[a], on[b])] > 0 ? 1 : 0;
    }
    const int64_t one = touched - 2 * both;
    return {non_empty_ - one - both, one, both};
  }

 private:
  static int32_t to_i32(int64_t n) { return static_cast<int32_t>(n); }

  int64_t d0_;
  std::vector<int32_t> sizes_;
  std::vector<int64_t> partners_;  // (d0): of how many non-empty pairs an input is part
  int64_t non_empty_ = 0;
};

struct InputErrors {
  ClassErrors and_, xor_;
};

// Sums of a over the shared neurons of each pair, for one input; kept from call to call, all zeros
// between them. Only pairs that an active neuron reads are visited: every other one reads exactly
// 0, which is right unless both are on, and then their shared neurons are active.
class PairSums {
 public:
  explicit PairSums(int64_t d0) : d0_(d0), sums_(static_cast<size_t>(d0 * d0)) {}

  InputErrors errors(const NeuronSets& sets, const std::vector<std::vector<int64_t>>& readers,
                     const SharedSizes& sizes, const OnList& on) {
    for (const NeuronSets::Active& active : sets.active(on)) {
      add(readers[static_cast<size_t>(active.neuron)], active.a);
    }
    const std::vector<uint8_t> flags = as_flags(on, d0_);
    InputErrors errors;
    for (const Pair pair : visited_) {
      const size_t at = sizes.index(pair.i, pair.j);
      const double read = static_cast<double>(sums_[at]) / sizes.at(at);
      sums_[at] = 0;
      const int n = flags[static_cast<size_t>(pair.i)] + flags[static_cast<size_t>(pair.j)];
      errors.and_[static_cast<size_t>(n)].add(read - truth(PairTarget::and_, n));
      errors.xor_[static_cast<size_t>(n)].add(n - 2 * read - truth(PairTarget::xor_, n));
    }
    visited_.clear();
    const std::array<int64_t, kPairClasses> counts = sizes.counts(on);
    for (size_t c = 0; c < kPairClasses; ++c) {
      const int64_t others = counts[c] - errors.and_[c].count;
      errors.and_[c].add_exact(others);
      errors.xor_[c].add_exact(others);
    }
    return errors;
  }

 private:
  void add(const std::vector<int64_t>& inputs, int64_t a) {
    for (size_t x = 0; x < inputs.size(); ++x) {
      for (size_t y = x + 1; y < inputs.size(); ++y) {
        int64_t& sum = sums_[static_cast<size_t>(inputs[x] * d0_ + inputs[y])];
        if (sum == 0) visited_.push_back({inputs[x], inputs[y]});
        sum += a;
      }
    }
  }

  int64_t d0_;
  std::vector<int64_t> sums_;  // (d0, d0), upper triangle
  std::vector<Pair> visited_;
};

// Of the mean over inputs of each input's mean error.
double standard_error(const std::vector<InputErrors>& inputs, size_t c) {
  double sum = 0, squares = 0, n = 0;
  for (const InputErrors& e : inputs) {
    if (e.and_[c].count == 0) continue;
    const double mean = e.and_[c].mean();
    sum += mean;
    squares += mean * mean;
    ++n;
  }
  return std::sqrt(std::max(0.0, squares - sum * sum / n) / (n - 1) / n);
}

}  // namespace

NeuronSets::NeuronSets(int64_t d0, int64_t d)
    : d0_(d0), d_(d), words_((d + kWord - 1) / kWord), bits_(static_cast<size_t>(d0 * words_)) {}

NeuronSets NeuronSets::bernoulli(int64_t d0, int64_t d, double p, uint64_t seed, uint64_t stream,
                                 int threads) {
  NeuronSets sets(d0, d);
  parallel_for(d0, threads, [&](int64_t i) {
    Random random(seed, stream + static_cast<uint64_t>(i));
    for (int64_t k = 0; k < d; ++k) {
      if (random.uniform() < p) sets.set(i, k);
    }
  });
  return sets;
}

std::span<const uint64_t> NeuronSets::row(int64_t i) const {
  return std::span(bits_).subspan(static_cast<size_t>(i * words_), static_cast<size_t>(words_));
}

void NeuronSets::set(int64_t i, int64_t k) {
  bits_[static_cast<size_t>(i * words_ + k / kWord)] |= uint64_t{1} << (k % kWord);
}

bool NeuronSets::reads(int64_t i, int64_t k) const {
  return (row(i)[static_cast<size_t>(k / kWord)] >> (k % kWord) & 1) != 0;
}

int64_t NeuronSets::shared(int64_t i, int64_t j) const {
  const auto a = row(i), b = row(j);
  int64_t n = 0;
  for (size_t w = 0; w < a.size(); ++w) n += std::popcount(a[w] & b[w]);
  return n;
}

std::vector<NeuronSets::Active> NeuronSets::active(const OnList& on) const {
  std::vector<Active> found;
  for (int64_t w = 0; w < words_; ++w) {
    uint64_t once = 0, twice = 0;
    for (const int64_t i : on) {
      const uint64_t bits = row(i)[static_cast<size_t>(w)];
      twice |= once & bits;
      once |= bits;
    }
    for (; twice != 0; twice &= twice - 1) {
      const int64_t k = w * kWord + std::countr_zero(twice);
      int64_t a = -1;
      for (const int64_t i : on) a += reads(i, k) ? 1 : 0;
      found.push_back({k, a});
    }
  }
  return found;
}

std::vector<std::vector<int64_t>> NeuronSets::readers() const {
  std::vector<std::vector<int64_t>> inputs(static_cast<size_t>(d_));
  for (int64_t i = 0; i < d0_; ++i) {
    for (int64_t w = 0; w < words_; ++w) {
      for (uint64_t bits = row(i)[static_cast<size_t>(w)]; bits != 0; bits &= bits - 1) {
        inputs[static_cast<size_t>(w * kWord + std::countr_zero(bits))].push_back(i);
      }
    }
  }
  return inputs;
}

std::vector<float> NeuronSets::weights() const {
  std::vector<float> W(static_cast<size_t>(d_ * d0_));
  for (int64_t i = 0; i < d0_; ++i) {
    for (int64_t k = 0; k < d_; ++k) W[static_cast<size_t>(k * d0_ + i)] = reads(i, k) ? 1 : 0;
  }
  return W;
}

double read_and(const NeuronSets& sets, const OnList& on, Pair pair) {
  int64_t sum = 0, shared = 0;
  for (int64_t k = 0; k < sets.d(); ++k) {
    if (!sets.reads(pair.i, k) || !sets.reads(pair.j, k)) continue;
    int64_t pre = -1;
    for (const int64_t i : on) pre += sets.reads(i, k) ? 1 : 0;
    sum += std::max<int64_t>(0, pre);
    ++shared;
  }
  return shared == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(shared);
}

std::array<double, kPairClasses> and_error_law(int64_t ones, double p) {
  const auto l = static_cast<double>(ones);
  return {l * p - 1 + std::pow(1 - p, l), (l - 1) * p, (l - 2) * p};
}

double ConstructionErrors::empty_share() const {
  return static_cast<double>(empty_pairs) / static_cast<double>(pairs);
}

double ConstructionErrors::worst_class() const {
  double worst = 0;
  for (int c = 0; c < kPairClasses; ++c) {
    const ReadErrors& read = and_[static_cast<size_t>(c)];
    const int64_t empty = empty_reads[static_cast<size_t>(c)];
    if (read.count + empty == 0) continue;
    const double sum = read.sum + static_cast<double>(empty) * truth(PairTarget::and_, c);
    worst = std::max(worst, sum / static_cast<double>(read.count + empty));
  }
  return worst;
}

ConstructionErrors measure_construction(const NeuronSets& sets, const std::vector<OnList>& inputs,
                                        int threads) {
  const SharedSizes sizes(sets, threads);
  const std::vector<std::vector<int64_t>> readers = sets.readers();
  std::vector<PairSums> sums(static_cast<size_t>(threads), PairSums(sets.d0()));
  std::vector<InputErrors> each(inputs.size());
  parallel_for(std::ssize(inputs), threads, [&](int64_t n, int worker) {
    each[static_cast<size_t>(n)] = sums[static_cast<size_t>(worker)].errors(
        sets, readers, sizes, inputs[static_cast<size_t>(n)]);
  });
  ConstructionErrors result;
  result.pairs = sizes.pairs();
  result.empty_pairs = sizes.pairs() - sizes.non_empty();
  for (const InputErrors& e : each) {
    add(result.and_, e.and_);
    add(result.xor_, e.xor_);
  }
  for (const OnList& on : inputs) {
    const int64_t l = std::ssize(on), both = l * (l - 1) / 2, one = l * (sets.d0() - l);
    result.empty_reads[kBoth] += both;
    result.empty_reads[kOne] += one;
    result.empty_reads[kNeither] += result.pairs - both - one;
  }
  for (size_t c = 0; c < kPairClasses; ++c) {
    result.empty_reads[c] -= result.and_[c].count;
    result.standard_errors[c] = standard_error(each, c);
  }
  return result;
}

}  // namespace elapse

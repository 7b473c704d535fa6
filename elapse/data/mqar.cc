// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/mqar.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "elapse/core/error.h"

namespace elapse {
namespace {

// `count` different numbers from [begin, end).
std::vector<int64_t> different(Random& random, int64_t count, int64_t begin, int64_t end) {
  std::vector<int64_t> numbers;
  std::vector<bool> taken(static_cast<size_t>(end - begin));
  while (std::ssize(numbers) < count) {
    const int64_t i = random.below(end - begin);
    if (taken[static_cast<size_t>(i)]) continue;
    taken[static_cast<size_t>(i)] = true;
    numbers.push_back(begin + i);
  }
  return numbers;
}

// The first `count` of `places` places drawn without replacement by weight (g + 1)^(power - 1): the
// earliest of exponential waiting times with these rates (Efraimidis and Spirakis, 2006).
std::vector<int64_t> places_by_power_law(Random& random, int64_t count, int64_t places) {
  std::vector<double> wait;
  for (int64_t g = 0; g < places; ++g) {
    const double rate = std::pow(static_cast<double>(g + 1), MqarTask::kPower - 1);
    wait.push_back(-std::log(1 - random.uniform()) / rate);
  }
  std::vector<int64_t> order(static_cast<size_t>(places));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    return wait[static_cast<size_t>(a)] < wait[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

}  // namespace

MqarTask::MqarTask(uint64_t seed, int64_t pairs, int64_t vocab_size)
    : DrawnTask(seed), pairs_(pairs), vocab_size_(vocab_size) {
  ELAPSE_CHECK(pairs >= 1, "mqar: expected at least 1 pair, found {}", pairs);
  ELAPSE_CHECK(vocab_size / 2 > pairs,
               "mqar: expected a vocabulary of at least {} for {} different keys and values, found "
               "{}",
               2 * pairs + 2, pairs, vocab_size);
}

std::string MqarTask::description() const {
  return fmt::format("multi-query associative recall, {} pairs, vocabulary {}, seed {}", pairs_,
                     vocab_size_, seed());
}

void MqarTask::check_length(int64_t length) const {
  ELAPSE_CHECK(length >= 4 * pairs_ && length % 2 == 0,
               "mqar: expected an even length of at least {} ({} pairs, and places for as many "
               "queries), found {}",
               4 * pairs_, pairs_, length);
}

void MqarTask::append_example(Random random, Draw /*draw*/, int64_t length,
                              TokenBatch& batch) const {
  const int64_t half = vocab_size_ / 2;
  const std::vector<int64_t> keys = different(random, pairs_, 1, half);
  const std::vector<int64_t> values = different(random, pairs_, half, vocab_size_);
  for (size_t i = 0; i < keys.size(); ++i) {
    batch.tokens.push_back(keys[i]);
    batch.tokens.push_back(values[i]);
  }
  const int64_t rest = length - 2 * pairs_;
  const std::vector<int64_t> places = places_by_power_law(random, pairs_, rest / 2);
  const auto begin = static_cast<int64_t>(batch.tokens.size());
  batch.tokens.resize(static_cast<size_t>(begin + rest), 0);
  std::vector<size_t> by_place(places.size());
  std::iota(by_place.begin(), by_place.end(), 0);
  std::sort(by_place.begin(), by_place.end(),
            [&](size_t a, size_t b) { return places[a] < places[b]; });
  for (const size_t i : by_place) {
    const int64_t row = begin + 2 * places[i];
    batch.tokens[static_cast<size_t>(row)] = keys[i];
    batch.logit_rows.push_back(row);
    batch.targets.push_back(values[i]);
  }
  batch.lengths.push_back(length);
}

}  // namespace elapse

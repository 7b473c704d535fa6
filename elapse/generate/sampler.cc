// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/sampler.h"

#include <cmath>
#include <limits>

#include "elapse/core/error.h"
#include "elapse/core/random.h"

namespace elapse {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr uint64_t kNumbersPerDraw = 2;  // 32-bit numbers that Random::uniform takes

// The likeliest token, the first of several.
int64_t likeliest(std::span<const double> logits) {
  int64_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    ELAPSE_CHECK(!std::isnan(logits[i]) && logits[i] < kInfinity,
                 "sampling: expected finite logits, found {} for token {}", logits[i], i);
    if (logits[i] > logits[static_cast<size_t>(best)]) best = static_cast<int64_t>(i);
  }
  ELAPSE_CHECK(!logits.empty() && logits[static_cast<size_t>(best)] > -kInfinity,
               "sampling: expected a token with a finite logit, found none among {}",
               logits.size());
  return best;
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  const auto& [temperature, top_k, top_p, min_p, seed] = options_;
  ELAPSE_CHECK(temperature >= 0 && temperature < kInfinity,
               "temperature: expected 0 or more, found {}", temperature);
  ELAPSE_CHECK(top_k >= 0, "top_k: expected 0 (off) or more, found {}", top_k);
  ELAPSE_CHECK(top_p >= 0 && top_p <= 1, "top_p: expected 0 to 1, found {}", top_p);
  ELAPSE_CHECK(min_p >= 0 && min_p <= 1, "min_p: expected 0 to 1, found {}", min_p);
}

Sampling Sampler::sampling() const {
  return {options_.temperature, options_.top_k, options_.top_p, options_.min_p};
}

double Sampler::uniform(int64_t position) const {
  Random random(options_.seed);
  random.seek(kNumbersPerDraw * static_cast<uint64_t>(position));
  return random.uniform();
}

std::vector<Candidate> Sampler::candidates(std::span<const double> logits) const {
  const int64_t best = likeliest(logits);
  if (is_greedy()) return {{best, 1}};
  return elapse::candidates(logits, best, sampling());
}

int64_t Sampler::sample(std::span<const double> logits, int64_t position) const {
  return draw(candidates(logits), uniform(position));
}

}  // namespace elapse

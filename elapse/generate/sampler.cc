// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "elapse/core/error.h"
#include "elapse/core/random.h"

namespace elapse {
namespace {

using Candidates = std::vector<Candidate>;

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

bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
}

double total_weight(const Candidates& candidates) {
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  return total;
}

// The weight of a candidate is its logit here: exp could make unequal ones equal.
void keep_top_k(Candidates& candidates, int64_t k) {
  if (k == 0 || k >= static_cast<int64_t>(candidates.size())) return;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), likelier);
  candidates.resize(static_cast<size_t>(k));
}

void keep_top_p(Candidates& candidates, double p) {
  if (p == 1) return;
  std::sort(candidates.begin(), candidates.end(), likelier);
  const double enough = p * total_weight(candidates);
  double sum = 0;
  size_t kept = 0;
  do {
    sum += candidates[kept++].weight;
  } while (sum < enough && kept < candidates.size());
  candidates.resize(kept);
}

// The likeliest has weight 1.
void keep_min_p(Candidates& candidates, double p) {
  std::erase_if(candidates, [p](const Candidate& c) { return c.weight < p; });
}

int64_t draw(const Candidates& candidates, double uniform) {
  const double target = uniform * total_weight(candidates);
  double sum = 0;
  for (const Candidate& c : candidates) {
    sum += c.weight;
    if (sum > target) return c.token;
  }
  return candidates.back().token;
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

std::vector<Candidate> Sampler::candidates(std::span<const double> logits) const {
  const int64_t best = likeliest(logits);
  if (options_.temperature == 0) return {{best, 1}};
  const double highest = logits[static_cast<size_t>(best)];
  Candidates kept;
  kept.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > -kInfinity) kept.push_back({static_cast<int64_t>(i), logits[i] - highest});
  }
  keep_top_k(kept, options_.top_k);
  for (Candidate& c : kept) c.weight = std::exp(c.weight);
  keep_top_p(kept, options_.top_p);
  keep_min_p(kept, options_.min_p);
  for (Candidate& c : kept) {
    c.weight = std::exp((logits[static_cast<size_t>(c.token)] - highest) / options_.temperature);
  }
  return kept;
}

int64_t Sampler::sample(std::span<const double> logits, int64_t position) const {
  Random random(options_.seed);
  random.seek(kNumbersPerDraw * static_cast<uint64_t>(position));
  return draw(candidates(logits), random.uniform());
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/sample.h"

#include <algorithm>
#include <cmath>

#include "elapse/ops/check.h"

namespace elapse {
namespace {

using Candidates = std::vector<Candidate>;

bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
}

double total_weight(std::span<const Candidate> candidates) {
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

}  // namespace

std::vector<Candidate> candidates(std::span<const double> logits, int64_t likeliest,
                                  const Sampling& how) {
  const double highest = logits[static_cast<size_t>(likeliest)];
  Candidates kept;
  kept.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isinf(logits[i])) kept.push_back({static_cast<int64_t>(i), logits[i]});
  }
  keep_top_k(kept, how.top_k);
  for (Candidate& c : kept) c.weight = std::exp(c.weight - highest);
  keep_top_p(kept, how.top_p);
  keep_min_p(kept, how.min_p);
  for (Candidate& c : kept) {
    c.weight = std::exp((logits[static_cast<size_t>(c.token)] - highest) / how.temperature);
  }
  std::sort(kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  return kept;
}

int64_t draw(std::span<const Candidate> candidates, double uniform) {
  const double target = uniform * total_weight(candidates);
  double sum = 0;
  for (const Candidate& c : candidates) {
    sum += c.weight;
    if (sum > target) return c.token;
  }
  return candidates.back().token;
}

void sample(Device& device, const Sample& args) {
  const ArgumentCheck check(device, args.kOp, args.logits.dtype()), exact(args.kOp, DType::f64);
  const int64_t rows = args.logits.dim(0);
  check.matrix("logits", args.logits, {rows, args.logits.dim(1)});
  exact.contiguous("uniform", args.uniform, {rows});
  const Sampling& how = args.how;
  check.that(how.temperature > 0, "the temperature is not above 0");
  check.that(how.top_k >= 0, "top_k is negative");
  check.that(how.top_p >= 0 && how.top_p <= 1, "top_p is not from 0 to 1");
  check.that(how.min_p >= 0 && how.min_p <= 1, "min_p is not from 0 to 1");
  check.indices("index", args.index, {rows});
  device.launch(args.logits.dtype(), args);
}

}  // namespace elapse

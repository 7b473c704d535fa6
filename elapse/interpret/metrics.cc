// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace elapse {

std::vector<double> logit_differences(const LastLogits& logits,
                                      const std::vector<Answer>& answers) {
  ELAPSE_CHECK(std::ssize(answers) == logits.sequences, "expected {} answers, found {}",
               logits.sequences, answers.size());
  std::vector<double> differences;
  for (size_t s = 0; s < answers.size(); ++s) {
    for (const int64_t c : {answers[s].right, answers[s].wrong}) {
      ELAPSE_CHECK(c >= 0 && c < logits.classes,
                   "answer {}: {} is no class of the model, which has {}", s, c, logits.classes);
    }
    const auto i = static_cast<int64_t>(s);
    differences.push_back(logits(i, answers[s].right) - logits(i, answers[s].wrong));
  }
  return differences;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double mean_absolute(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += std::abs(v);
  return sum / static_cast<double>(values.size());
}

double quantile(std::vector<double> values, double share) {
  ELAPSE_CHECK(share >= 0 && share <= 1, "a quantile: expected a share of 0 to 1, found {}", share);
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(values.size() - 1, below + 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

LastLogits log_probabilities(const LastLogits& logits) {
  LastLogits out = logits;
  for (int64_t s = 0; s < logits.sequences; ++s) {
    double* row = out.values.data() + s * logits.classes;
    const double most = *std::max_element(row, row + logits.classes);
    double sum = 0;
    for (int64_t c = 0; c < logits.classes; ++c) sum += std::exp(row[c] - most);
    const double norm = most + std::log(sum);
    for (int64_t c = 0; c < logits.classes; ++c) row[c] -= norm;
  }
  return out;
}

std::vector<double> kl_divergences(const LastLogits& model, const LastLogits& other) {
  const LastLogits p = log_probabilities(model), q = log_probabilities(other);
  std::vector<double> found;
  for (int64_t s = 0; s < p.sequences; ++s) {
    double sum = 0;
    for (int64_t c = 0; c < p.classes; ++c) sum += std::exp(p(s, c)) * (p(s, c) - q(s, c));
    found.push_back(sum);
  }
  return found;
}

std::vector<int64_t> ranks(const LastLogits& logits, const std::vector<Answer>& answers) {
  std::vector<int64_t> found;
  for (int64_t s = 0; s < logits.sequences; ++s) {
    const double right = logits(s, answers[static_cast<size_t>(s)].right);
    int64_t above = 0;
    for (int64_t c = 0; c < logits.classes; ++c) above += logits(s, c) > right ? 1 : 0;
    found.push_back(above);
  }
  return found;
}

TaskScore task_score(const LastLogits& logits, const std::vector<Answer>& answers) {
  const std::vector<double> f = logit_differences(logits, answers);
  const LastLogits p = log_probabilities(logits);
  TaskScore score = {mean(f), mean_absolute(f), 0, 0, 0};
  const double share = 1 / static_cast<double>(f.size());
  const std::vector<int64_t> rank = ranks(logits, answers);
  for (size_t s = 0; s < f.size(); ++s) {
    score.accuracy += f[s] > 0 ? share : 0;
    score.probability += share * std::exp(p(static_cast<int64_t>(s), answers[s].right));
    score.mean_rank += share * static_cast<double>(rank[s]);
  }
  return score;
}

Faithfulness faithfulness(const LastLogits& model, const LastLogits& circuit,
                          const std::vector<Answer>& answers) {
  const std::vector<double> m = logit_differences(model, answers);
  const std::vector<double> c = logit_differences(circuit, answers);
  std::vector<double> gaps;
  for (size_t s = 0; s < m.size(); ++s) gaps.push_back(std::abs(c[s] - m[s]));
  return {std::abs(mean(c) - mean(m)), mean(gaps),        quantile(gaps, 0.5),
          quantile(gaps, 0.9),         quantile(gaps, 1), mean(kl_divergences(model, circuit))};
}

double normalised(double patched, double clean, double corrupted) {
  const double range = std::abs(clean - corrupted);
  if (range == 0) return std::numeric_limits<double>::quiet_NaN();
  return (patched - corrupted) / range * (clean > corrupted ? 1 : -1);
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/interpret/runs.h"

namespace elapse {

// The classes whose logits after a sequence's last token are compared.
struct Answer {
  int64_t right, wrong;
};

// f = logit(right) - logit(wrong), by sequence.
std::vector<double> logit_differences(const LastLogits& logits, const std::vector<Answer>& answers);

double mean(const std::vector<double>& values);
double mean_absolute(const std::vector<double>& values);
// Of sorted order, between neighbours linearly: 0.5 is the median. NaN for none.
double quantile(std::vector<double> values, double share);

// Softmax over the classes in nats, by sequence and class as LastLogits has them.
LastLogits log_probabilities(const LastLogits& logits);
// KL(model || other) of the distributions after the last tokens, by sequence.
std::vector<double> kl_divergences(const LastLogits& model, const LastLogits& other);
// How many classes have a larger logit than the right one: 0 is best.
std::vector<int64_t> ranks(const LastLogits& logits, const std::vector<Answer>& answers);

// How well a model does a task of right against wrong answers.
struct TaskScore {
  double logit_difference;           // F = E f: errors of opposite sign cancel
  double absolute_logit_difference;  // E |f|: where F is far below, the sign is mixed
  double accuracy;                   // P(f > 0)
  double probability;                // of the right answer, mean
  double mean_rank;
};
TaskScore task_score(const LastLogits& logits, const std::vector<Answer>& answers);

// How near a circuit comes to its model, f_C and f_M by sequence.
struct Faithfulness {
  double gap_of_means;                     // |F(C) - F(M)|
  double mean_gap;                         // E |f_C - f_M|, never less
  double median_gap, gap_90, largest_gap;  // quantiles of |f_C - f_M|
  double kl;                               // mean KL(M || C)
};
Faithfulness faithfulness(const LastLogits& model, const LastLogits& circuit,
                          const std::vector<Answer>& answers);

// 0 where a patched run is as the corrupted one, 1 where it is as the clean one (Ensign and
// Garriga-Alonso, 2024); NaN where the two do not differ.
double normalised(double patched, double clean, double corrupted);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/interpret/graph.h"
#include "elapse/interpret/metrics.h"

namespace elapse {

// What is attributed is the mean over the sequences of logit(right) - logit(wrong), m. `others` are
// runs of as many tokens each, from which values would be put in. To first order that changes m by
//   m(values of others) - m = sum of (a_other - a) dm/da,  the gradient taken on `sequences`
// (attribution patching, in its noising form where `sequences` are the clean ones).
struct AttributionTask {
  TokenLists sequences, others;
  std::vector<Answer> answers;  // one for each sequence
};

// Edge attribution patching (Syed et al., 2023): by the edge's number in ResidualGraph,
//   (o_from of others - o_from) . dm/d(input of `to`)
// summed over tokens and channels: one product of matrices for all edges. With `steps` > 1 the
// gradient is the mean of those at the embeddings e_other + k / steps (e - e_other), k = 1 to steps
// (integrated gradients of the inputs, Hanna et al., 2024).
std::vector<double> edge_attribution(const LanguageModel& model, const AttributionTask& task,
                                     int64_t steps = 1);

// The same of the values passing a point, states and step sizes among them: by selected row (a
// token), summed over its channels and states.
std::vector<double> point_attribution(const LanguageModel& model, const AttributionTask& task,
                                      const std::string& point, const Selection& where = {});

}  // namespace elapse

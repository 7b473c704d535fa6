// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/model/language_model.h"

namespace elapse {

// What each query of a layer of attention gives each token, for one sequence read from an empty
// state: softmax over the positions it sees of q . k / sqrt(head_dim), which kernels never hold
// together (TransformerLens' hook_pattern). (n_heads, tokens, tokens), 0 where nothing is seen.
std::vector<double> attention_weights(const LanguageModel& model, int64_t layer,
                                      const std::vector<int64_t>& tokens);

}  // namespace elapse

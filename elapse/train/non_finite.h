// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/data/token_source.h"
#include "elapse/model/language_model.h"

// Where NaN or infinity came from: for a message, after training has gone wrong. Slow.
namespace elapse {

// The first weight that is not finite, else the first named point of the forward pass over `batch`,
// else the loss, else of the gradients the parameters hold the one that backward reached first: as
// `weight "..."`, `point "..."`, `the loss itself` or `gradient of "..."`.
std::string first_non_finite(const LanguageModel& model, const TokenBatch& batch);

}  // namespace elapse

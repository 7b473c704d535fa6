// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>

#include "elapse/generate/sampler.h"
#include "elapse/generate/session.h"

namespace elapse {

// Samples up to `max_tokens` tokens and hands each to `take`, until `take` returns false. The
// session has read every token handed over, so that it is saved, forked or continued after the
// last of them. Returns their number.
int64_t generate(Session& session, const Sampler& sampler, int64_t max_tokens,
                 const std::function<bool(int64_t token)>& take);

}  // namespace elapse

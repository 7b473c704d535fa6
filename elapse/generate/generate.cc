// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/generate.h"

namespace elapse {

int64_t generate(Session& session, const Sampler& sampler, int64_t max_tokens,
                 const std::function<bool(int64_t token)>& take) {
  for (int64_t i = 0; i < max_tokens; ++i) {
    const int64_t token = session.sample(sampler);
    const bool more = take(token);
    session.step(token);
    if (!more) return i + 1;
  }
  return max_tokens;
}

}  // namespace elapse

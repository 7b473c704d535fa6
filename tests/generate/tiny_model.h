// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/core/random.h"
#include "elapse/generate/session.h"

namespace elapse {

// A small random model whose vocabulary of 13 is padded to 16 rows.
inline ModelConfig tiny_config() {
  ModelConfig config = ModelConfig::mamba(24, 2, 13);
  config.layout = Layout::original;
  config.pad_vocab_multiple = 8;
  config.d_state = 6;
  return config;
}

inline std::vector<int64_t> random_tokens(int64_t length, uint64_t seed = 1) {
  Random random(seed);
  std::vector<int64_t> tokens(static_cast<size_t>(length));
  for (int64_t& t : tokens) t = random.below(tiny_config().vocab_size);
  return tokens;
}

struct Kind {
  std::string device;
  DType dtype;
};

// Every backend of the host built in, in each of the dtypes.
inline std::vector<Kind> every_kind() {
  std::vector<Kind> kinds;
  for (const Backend* backend : backends()) {
    for (DType dtype : {DType::f32, DType::f64}) {
      if (!backend->host_memory) continue;
      kinds.push_back({std::string(backend->name), dtype});
    }
  }
  return kinds;
}

// For testing::TestWithParam<Kind>.
struct KindName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param.device + "_" + std::string(name_of(info.param.dtype));
  }
};

}  // namespace elapse

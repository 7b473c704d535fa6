// SPDX-License-Identifier: Apache-2.0
// A model with a circuit planted by hand: what the methods that look for circuits must find.
#pragma once
#include "elapse/core/random.h"
#include "elapse/interpret/attribution.h"
#include "elapse/interpret/graph.h"

namespace elapse::planted {

// Four layers of which the first and the last write nothing. Layer 1 reads the embedding and writes
// into channels of its own, which are all that layer 2 reads; it writes into channels of its own,
// which are all that the head reads:  embed -> layers.1 -> layers.2 -> unembed.
// One channel that is large and always the same keeps the norms, which see all channels, from
// carrying much of anything else.
inline constexpr int64_t kClasses = 8, kOfLayer1 = 8, kOfLayer2 = 12, kConstant = 15, kWidth = 16;
inline constexpr int64_t kLayer1 = 2, kLayer2 = 3, kUnembed = 5;  // nodes
inline const std::vector<Edge> kCircuit = {{0, kLayer1}, {kLayer1, kLayer2}, {kLayer2, kUnembed}};

inline double* matrix(const LanguageModel& model, const std::string& name) {
  return model.parameters().find(name)->var.value().data<double>();
}

inline void keep_columns(double* m, int64_t rows, int64_t columns, int64_t begin, int64_t end,
                         double factor) {
  for (int64_t i = 0; i < rows * columns; ++i) {
    const int64_t c = i % columns;
    m[i] *= c >= begin && c < end ? factor : 0;
  }
}

inline void keep_rows(double* m, int64_t columns, int64_t rows, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < rows * columns; ++i) {
    if (i / columns < begin || i / columns >= end) m[i] = 0;
  }
}

inline LanguageModel model(Device& device) {
  ModelConfig config = ModelConfig::mamba(kWidth, 4, kClasses);
  config.d_state = 4;
  config.tied_head = false;
  LanguageModel model(device, config, DType::f64, 3);
  const int64_t d_inner = config.d_inner;
  double* embedding = matrix(model, "backbone.embedding.weight");
  for (int64_t i = 0; i < kClasses * kWidth; ++i) {
    embedding[i] = i % kWidth == kConstant ? 20 : i / kWidth == i % kWidth ? 1 : 0;
  }
  const auto layer = [](int64_t i, const char* name) {
    return fmt::format("backbone.layers.{}.mixer.{}.weight", i, name);
  };
  for (const int64_t silent : {0, 3}) {
    keep_rows(matrix(model, layer(silent, "out_proj")), d_inner, kWidth, 0, 0);
  }
  keep_columns(matrix(model, layer(1, "in_proj")), 2 * d_inner, kWidth, 0, kOfLayer1, 30);
  keep_rows(matrix(model, layer(1, "out_proj")), d_inner, kWidth, kOfLayer1, kOfLayer2);
  keep_columns(matrix(model, layer(2, "in_proj")), 2 * d_inner, kWidth, kOfLayer1, kOfLayer2, 100);
  keep_rows(matrix(model, layer(2, "out_proj")), d_inner, kWidth, kOfLayer2, kConstant);
  keep_columns(matrix(model, "lm_head.weight"), kClasses, kWidth, kOfLayer2, kConstant, 4000);
  return model;
}

inline TokenLists sequences(uint64_t seed, int64_t count = 3, int64_t length = 5) {
  Random random(seed);
  TokenLists lists;
  for (int64_t s = 0; s < count; ++s) {
    lists.emplace_back();
    for (int64_t t = 0; t < length; ++t) lists.back().push_back(random.below(kClasses));
  }
  return lists;
}

}  // namespace elapse::planted

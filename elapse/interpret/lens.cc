// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/lens.h"

#include <algorithm>
#include <cmath>

namespace elapse {

LogitLens logit_lens(const LanguageModel& model, const std::vector<int64_t>& tokens,
                     const Answer& answer) {
  const int64_t n_layers = model.config().n_layers;
  const auto point = [&](int64_t row) {
    return row < n_layers ? fmt::format("layers.{}.resid_pre", row)
                          : fmt::format("layers.{}.resid_post", n_layers - 1);
  };
  Points points;
  for (int64_t row = 0; row <= n_layers; ++row) points.watch(point(row));
  Batch batch = pack(model, {tokens});
  Tape tape(model.device(), false);
  model.forward(tape, batch, nullptr, &points);
  batch.logit_rows = {};  // all tokens'

  LogitLens lens = {.rows = n_layers + 1, .columns = std::ssize(tokens), .cells = {}};
  const std::vector<Answer> answers(tokens.size(), answer);
  for (int64_t row = 0; row <= n_layers; ++row) {
    const Var stream(points.value(point(row)));
    const LastLogits logits =
        last_logits(model, model.forward_from(tape, n_layers, stream, batch).value());
    const LastLogits p = log_probabilities(logits);
    const std::vector<double> differences = logit_differences(logits, answers);
    const std::vector<int64_t> rank = ranks(logits, answers);
    for (int64_t t = 0; t < lens.columns; ++t) {
      const double* values = p.values.data() + t * p.classes;
      const auto best = std::max_element(values, values + p.classes);
      const auto i = static_cast<size_t>(t);
      lens.cells.push_back({best - values, std::exp(*best), differences[i], rank[i]});
    }
  }
  return lens;
}

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/lens.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace elapse {
namespace {

std::vector<LogitLens::Guess> likeliest(const double* log_probability, int64_t classes,
                                        int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(classes));
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto end = order.begin() + std::min(count, classes);
  std::partial_sort(order.begin(), end, order.end(), [&](int64_t a, int64_t b) {
    return log_probability[a] > log_probability[b] ||
           (log_probability[a] == log_probability[b] && a < b);
  });
  std::vector<LogitLens::Guess> guesses;
  for (auto token = order.begin(); token != end; ++token) {
    guesses.push_back({*token, std::exp(log_probability[*token])});
  }
  return guesses;
}

}  // namespace

LogitLens logit_lens(const LanguageModel& model, const std::vector<int64_t>& tokens,
                     const Answer& answer, int64_t guesses) {
  ELAPSE_CHECK(guesses >= 1, "expected at least one guess, found {}", guesses);
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
      const auto i = static_cast<size_t>(t);
      lens.cells.push_back({likeliest(p.values.data() + t * p.classes, p.classes, guesses),
                            differences[i], rank[i]});
    }
  }
  return lens;
}

}  // namespace elapse

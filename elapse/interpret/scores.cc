// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/scores.h"

#include <numeric>

#include "elapse/core/random.h"
#include "elapse/interpret/hidden_attention.h"
#include "elapse/interpret/metrics.h"

namespace elapse {
namespace {

TokenLists repeated_tokens(int64_t classes, int64_t length, int64_t sequences, uint64_t seed) {
  Random random(seed);
  TokenLists lists;
  for (int64_t s = 0; s < sequences; ++s) {
    std::vector<int64_t> tokens;
    for (int64_t t = 0; t < length; ++t) tokens.push_back(random.below(classes));
    for (int64_t t = 0; t < length; ++t) tokens.push_back(tokens[static_cast<size_t>(t)]);
    lists.push_back(std::move(tokens));
  }
  return lists;
}

double mean_of(const std::vector<double>& values, int64_t begin, int64_t end) {
  return std::accumulate(values.begin() + begin, values.begin() + end, 0.0) /
         static_cast<double>(end - begin);
}

// The share of a query's attention, of one layer and sequence, mean over the queries.
double matched(const HiddenAttention& attention, int64_t length) {
  const std::vector<double> map = attention.map(HiddenAttention::Reduction::mean_absolute);
  const int64_t n = attention.tokens();
  double sum = 0;
  for (int64_t i = length; i < n; ++i) {
    const double* row = map.data() + i * n;
    const double all = std::accumulate(row, row + i + 1, 0.0);
    if (all > 0) sum += row[i - length + 1] / all;
  }
  return sum / static_cast<double>(length);
}

}  // namespace

RepetitionScores repetition_scores(
    const LanguageModel& model, int64_t length, int64_t sequences, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  ELAPSE_CHECK(length >= 2 && sequences >= 1,
               "expected at least 2 tokens and 1 sequence, found {} and {}", length, sequences);
  const TokenLists lists = repeated_tokens(model.config().vocab_size, length, sequences, seed);
  RepetitionScores scores;
  scores.length = length;
  scores.sequences = sequences;
  scores.nats.assign(static_cast<size_t>(2 * length - 1), 0.0);
  // Recurrent cells have no hidden attention.
  const int64_t n_layers = is_mamba(model.config().mixer) ? model.config().n_layers : 0;
  scores.prefix_matching.assign(static_cast<size_t>(n_layers), 0.0);
  const double share = 1 / static_cast<double>(sequences);
  int64_t done = 0;  // layers of sequences
  for (const std::vector<int64_t>& tokens : lists) {
    Batch batch = pack(model, {tokens});
    batch.logit_rows = {};  // all tokens'
    Points points;
    for (int64_t i = 0; i < n_layers; ++i) HiddenAttention::watch(points, i);
    Tape tape(model.device(), false);
    const Var logits = model.forward(tape, batch, nullptr, &points);
    const LastLogits p = log_probabilities(last_logits(model, logits.value()));
    for (size_t t = 0; t + 1 < tokens.size(); ++t) {
      scores.nats[t] -= share * p(static_cast<int64_t>(t), tokens[t + 1]);
    }
    for (int64_t layer = 0; layer < n_layers; ++layer) {
      scores.prefix_matching[static_cast<size_t>(layer)] +=
          share * matched(HiddenAttention(model, layer, points), length);
      progress(++done, n_layers * sequences);
    }
  }
  scores.first_half = mean_of(scores.nats, 0, length - 1);
  scores.second_half = mean_of(scores.nats, length, 2 * length - 1);
  scores.in_context = scores.second_half - scores.first_half;
  for (int64_t i = length; i < 2 * length; ++i) {
    scores.by_chance += 1 / static_cast<double>(i + 1) / static_cast<double>(length);
  }
  return scores;
}

}  // namespace elapse

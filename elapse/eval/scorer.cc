// SPDX-License-Identifier: Apache-2.0
#include "elapse/eval/scorer.h"

#include <algorithm>
#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/core/parallel.h"
#include "elapse/model/checkpoint.h"
#include "elapse/points/points.h"

namespace elapse {
namespace {

constexpr const char* kHidden = "norm_f";  // the point whose value the head reads

// Rows that the head is given at once: enough for its matrix product, and few enough for the
// logits, (rows, vocab), to take some 32 MB.
size_t rows_at_once(int64_t vocab) {
  constexpr int64_t kLogits = int64_t{1} << 23, kLeast = 128;
  return static_cast<size_t>(std::max(kLeast, kLogits / vocab / kLeast * kLeast));
}

Tensor upload(Device& device, const std::vector<int64_t>& values) {
  return device.upload(values, {static_cast<int64_t>(values.size())});
}

// `logits`: (vocab)
template <class T>
void score(const T* logits, int64_t vocab, TokenScore& score) {
  const T* largest = std::max_element(logits, logits + vocab);
  const double top = *largest;
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(logits[v] - top);
  score.log_probability = logits[score.token] - top - std::log(sum);
  score.likeliest = largest - logits == score.token;
}

// `logits`: (scores, vocab)
template <class T>
void score_all(const Tensor& logits, int threads, std::span<TokenScore> scores) {
  const int64_t vocab = logits.dim(1);
  parallel_for(logits.dim(0), threads, [&](int64_t i) {
    score(logits.data<T>() + i * vocab, vocab, scores[static_cast<size_t>(i)]);
  });
}

}  // namespace

Scorer::Scorer(const LanguageModel& model, int64_t batch_tokens, Take take)
    : model_(model),
      batch_tokens_(batch_tokens),
      take_(std::move(take)),
      carried_(model.make_state(1)) {
  ELAPSE_CHECK(batch_tokens >= 1, "batch_tokens: expected at least 1, found {}", batch_tokens);
}

void Scorer::add(std::span<const int64_t> tokens, int64_t first) {
  const auto size = static_cast<int64_t>(tokens.size());
  ELAPSE_CHECK(first >= 1 && first < size,
               "sequence {}: expected the first scored token to be 1 to {}, found {}", sequences_,
               size - 1, first);
  check_tokens(tokens);
  const int64_t read = size - 1;  // the last token is only predicted
  for (int64_t begin = 0; begin < read;) {
    // Cut is what fits no batch, never what only fits no more.
    if (read - begin > room() && !pending_.tokens.empty()) run();
    const int64_t end = std::min(read, begin + room());
    append(tokens, first, begin, end);
    begin = end;
  }
  ++sequences_;
}

void Scorer::check_tokens(std::span<const int64_t> tokens) const {
  const int64_t classes = model_.config().vocab_size;
  for (size_t t = 0; t < tokens.size(); ++t) {
    ELAPSE_CHECK(tokens[t] >= 0 && tokens[t] < classes,
                 "token {} of sequence {}: expected 0 to {}, found {}", t, sequences_, classes - 1,
                 tokens[t]);
  }
}

// Tokens [begin, end) of the sequence; its last token is not among them. A piece that is not the
// last fills the batch alone, so that the one carried state is written by none but its owner.
void Scorer::append(std::span<const int64_t> tokens, int64_t first, int64_t begin, int64_t end) {
  const auto last = static_cast<int64_t>(tokens.size()) - 1;
  const auto packed = static_cast<int64_t>(pending_.tokens.size()) - begin;
  pending_.tokens.insert(pending_.tokens.end(), tokens.begin() + begin, tokens.begin() + end);
  pending_.lengths.push_back(end - begin);
  pending_.starts.push_back(begin == 0 ? Sequences::kNoSlot : 0);
  pending_.ends.push_back(end == last ? Sequences::kNoSlot : 0);
  for (int64_t t = std::max(begin, first - 1); t < end; ++t) {
    pending_.rows.push_back(packed + t);
    const int64_t target = tokens[static_cast<size_t>(t + 1)];
    pending_.scores.push_back({.sequence = sequences_,
                               .position = t + 1,
                               .token = target,
                               .log_probability = 0,
                               .likeliest = false,
                               .last = t + 1 == last});
  }
}

void Scorer::finish() {
  if (!pending_.tokens.empty()) run();
}

void Scorer::run() {
  Device& device = model_.device();
  Tape tape(device, false);
  Points points;
  points.watch(kHidden);
  const Batch batch = {upload(device, pending_.tokens),
                       make_sequences(device, pending_.lengths, pending_.starts, pending_.ends),
                       upload(device, {0})};  // one row through the head here, the others below
  model_.forward(tape, batch, &carried_, &points);
  const Var hidden(points.value(kHidden));
  const size_t rows = pending_.rows.size(), step = rows_at_once(model_.config().vocab());
  for (size_t begin = 0; begin < rows; begin += step) {
    score_rows(tape, hidden, begin, std::min(rows, begin + step));
  }
  pending_ = {};
}

// hidden: (tokens, d_model)
void Scorer::score_rows(Tape& tape, const Var& hidden, size_t begin, size_t end) {
  Device& device = model_.device();
  const std::vector<int64_t> rows(pending_.rows.data() + begin, pending_.rows.data() + end);
  const Var predicting = gather_rows(tape, hidden, upload(device, rows));
  const Tensor logits = to_host(device, linear(tape, predicting, model_.head(), Var()).value());
  const std::span scores(pending_.scores.data() + begin, pending_.scores.data() + end);
  if (logits.dtype() == DType::f32) {
    score_all<float>(logits, device.threads(), scores);
  } else {
    score_all<double>(logits, device.threads(), scores);
  }
  for (const TokenScore& score : scores) {
    ELAPSE_CHECK(!std::isnan(score.log_probability),
                 "the model's logits for token {} of sequence {} are not finite", score.position,
                 score.sequence);
    take_(score);
  }
}

}  // namespace elapse

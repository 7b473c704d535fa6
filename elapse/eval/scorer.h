// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "elapse/model/language_model.h"

namespace elapse {

// How well a model foresaw one token of a sequence.
struct TokenScore {
  int64_t sequence;        // the how-manieth added
  int64_t position;        // in its sequence
  int64_t token;           // the one that stands there
  double log_probability;  // its, in nats, given all tokens of the sequence before it
  bool likeliest;          // it has the largest logit (of equal ones, the lowest class)
  bool last;               // ends its sequence
};

// Scores the tokens of many sequences. The model reads them packed, some `batch_tokens` at once; a
// longer sequence is read in pieces, its state carried from each to the next. Memory depends on
// neither the sequences' lengths nor their number, and the packing changes scores by rounding
// alone.
//
// Probabilities are over all rows of the head, padded classes included, as published evaluations
// of these models have it. The softmax is taken in double.
class Scorer {
 public:
  using Take = std::function<void(const TokenScore&)>;

  // `take` is handed every scored token, in order of sequence and position. The model must outlive
  // the scorer.
  Scorer(const LanguageModel& model, int64_t batch_tokens, Take take);

  // Tokens [first, size) are to be scored; at least one, and at least one stands before them. Runs
  // the model whenever a batch is full.
  void add(std::span<const int64_t> tokens, int64_t first);
  void finish();  // scores what is still waiting

 private:
  struct Pending {
    std::vector<int64_t> tokens;                 // (tokens)
    std::vector<int64_t> lengths, starts, ends;  // (n_seqs)
    std::vector<int64_t> rows;                   // (rows): packed tokens that predict
    std::vector<TokenScore> scores;              // (rows): the predicted, yet to be scored
  };

  int64_t room() const { return batch_tokens_ - static_cast<int64_t>(pending_.tokens.size()); }
  void check_tokens(std::span<const int64_t> tokens) const;
  void append(std::span<const int64_t> tokens, int64_t first, int64_t begin, int64_t end);
  void run();
  void score_rows(Tape& tape, const Var& hidden, size_t begin, size_t end);

  const LanguageModel& model_;
  int64_t batch_tokens_;
  Take take_;
  State carried_;  // one slot, of the sequence that is being read in pieces
  Pending pending_;
  int64_t sequences_ = 0;
};

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/interpret/metrics.h"

namespace elapse {

// What the model would say if it stopped after each layer: the head on the final norm of the
// residual stream (nostalgebraist, 2020). Row l is the stream that enters layer l, the last row
// what leaves the last layer, and so the model's own.
struct LogitLens {
  struct Guess {
    int64_t token;
    double probability;
  };
  struct Cell {
    std::vector<Guess> likeliest;  // next tokens, the likeliest first
    double logit_difference;       // right - wrong
    int64_t rank;                  // of the right answer, 0 is best
  };
  int64_t rows = 0, columns = 0;  // n_layers + 1, tokens
  std::vector<Cell> cells;        // (rows, columns)

  const Cell& at(int64_t row, int64_t column) const {
    return cells[static_cast<size_t>(row * columns + column)];
  }
};

// With up to `guesses` next tokens a cell, at least one.
LogitLens logit_lens(const LanguageModel& model, const std::vector<int64_t>& tokens,
                     const Answer& answer, int64_t guesses = 5);

}  // namespace elapse

// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/interpret/runs.h"

namespace elapse {

// A Mamba layer as attention (Ali, Zimerman and Wolf, 2024), for one sequence read from an empty
// state. For channel e (of Mamba-2 the number is that of its head), source token j and query i:
//   alpha[i][j][e] = sum_n C_i[n] (prod over k = j + 1 .. i of exp(dt_k A[n])) dt_j B_j[n],  j <= i
//   ssm_out_i[e] = sum_{j <= i} alpha[i][j][e] x_j[e] + D[e] x_i[e]
// Rows are made on demand by running products from i backwards, in double: never all (e, i, j).
class HiddenAttention {
 public:
  HiddenAttention(const LanguageModel& model, int64_t layer, const std::vector<int64_t>& tokens);

  int64_t tokens() const { return tokens_; }
  int64_t channels() const { return d_inner_; }

  std::vector<double> row(int64_t query) const;  // (query + 1, d_inner)
  // What each source token's channel adds to ssm_out of the query: alpha x; (query + 1, d_inner).
  std::vector<double> contributions(int64_t query) const;
  std::vector<double> skip(int64_t query) const;  // (d_inner): D x

  enum class Reduction : uint8_t { mean, mean_absolute };
  // Over the channels, for all queries: (tokens, tokens), zero above the diagonal.
  std::vector<double> map(Reduction reduction) const;

 private:
  double A(int64_t e, int64_t n) const {
    return A_[static_cast<size_t>(by_head_ ? head_of(e) : e * d_state_ + n)];
  }
  int64_t head_of(int64_t e) const { return e / head_dim_; }
  int64_t group_column(int64_t e) const {
    return by_head_ ? e / channels_per_group_ * d_state_ : 0;
  }

  bool by_head_;
  int64_t tokens_, d_inner_, d_state_, head_dim_ = 1, channels_per_group_ = 1;
  int64_t dt_width_, B_width_;
  std::vector<double> dt_, A_, B_, C_, x_, D_;
};

}  // namespace elapse
